// SPDX-License-Identifier: GPL-2.0-or-later
// Recognises files that are no RAM: archives, disk images, texts, dumps in other formats. Read as
// raw RAM they would give figures that mean nothing.
// Threads: any; each call has a libmagic of its own.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/result.hpp"

namespace ramfold::estimate {

// Bytes from the beginning of a file that are enough to recognise it: libmagic, too, reads no more.
inline constexpr std::size_t kHeadMax = 1u << 20;

// The type of a file that begins with `head`, and the remedy: "not RAM: gzip compressed data:
// unpack it first". Empty when the file may be RAM, or is an ELF file. An error: libmagic has no
// database.
Result<std::optional<std::string>> known_as(std::span<const std::byte> head);

}  // namespace ramfold::estimate
