// SPDX-License-Identifier: GPL-2.0-or-later
// Files that are known to be something else than RAM: archives, disk images, texts, dumps in other
// formats. Read as raw RAM they would give figures that mean nothing.
// Threads: any; each call has a libmagic of its own.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/result.hpp"

namespace ramfold::estimate {

// So many bytes from the file's beginning tell what it is: libmagic looks no further by itself.
inline constexpr std::size_t kHeadMax = 1u << 20;

// What the file that begins so is, and what to do: "not RAM: gzip compressed data: unpack it
// first". Nothing when it may be RAM, or is an ELF file. An error: libmagic has no database.
Result<std::optional<std::string>> known_as(std::span<const std::byte> head);

}  // namespace ramfold::estimate
