// SPDX-License-Identifier: GPL-2.0-or-later
// Takes a page as words of 4 or 8 bytes and writes it by columns: first the lowest byte of every
// word, then the second byte of every word, and so on. Tables of numbers and pointers compress
// better in this way.
// Threads: pure.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::store {

// The numbers are part of the format.
enum class Transpose : std::uint8_t { none = 0, words4 = 1, words8 = 2 };
inline constexpr std::size_t kTransposes = 3;

constexpr std::size_t word_bytes(Transpose t) noexcept { return t == Transpose::words4 ? 4 : 8; }

// REQUIRES: not Transpose::none; `from` and `to` are 4096 bytes and do not overlap.
void transpose(Transpose t, const std::byte* from, std::byte* to) noexcept;
// The inverse of transpose().
void transpose_back(Transpose t, const std::byte* from, std::byte* to) noexcept;

}  // namespace ramfold::store
