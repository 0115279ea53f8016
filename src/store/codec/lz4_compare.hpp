// SPDX-License-Identifier: GPL-2.0-or-later
// Compares pages with what LZ4 blocks decode to, without decoding them.
//
// Where a sequence of a block lies follows from the token of the sequence before it, so a decoder
// waits for one load after the other. Two blocks are walked together: while the one waits, the
// other goes on.
// Threads: pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::lz4 {

struct Comparison {
  std::span<const std::byte> block;  // empty: there is nothing to compare
  const PageCopy* page = nullptr;
  // True: decode() gives the bytes of the page. False: it does not, or nobody knows, because the
  // block is not as encode() makes it, or the processor lacks AVX2.
  bool equal = false;
};
using Pair = std::array<Comparison, 2>;

// The processor's instructions that compare() uses; each one includes those before it.
enum class Vectors : std::uint8_t { none, avx2, avx512 };
// The best that this processor has.
Vectors vectors_here() noexcept;

// Fills in `equal`. Safe on any bytes. Meanwhile the blocks of `next` are prefetched.
// REQUIRES: the processor has the instructions.
void compare(Pair& pair, const Pair& next, Vectors vectors = vectors_here()) noexcept;

}  // namespace ramfold::store::lz4
