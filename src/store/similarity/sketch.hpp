// SPDX-License-Identifier: GPL-2.0-or-later
// What a page is known by when something like it is looked for: the smallest hashes of its 64-byte
// blocks, of which only the lower 16 bits of every 8-byte word count. Two pages that share a block
// this way often share one of their smallest hashes. The upper bits are left out because they are
// what differs most between guests: where the kernel, a library or a heap was loaded, a multiple of
// a page at least. With them left out a useful reference is found for nearly twice as many pages.
// Threads: pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/page_copy.hpp"

namespace ramfold::store {

struct Sketch {
  static constexpr std::size_t kHashesMax = 4;

  // Ascending, all different. Blocks that are zero where it counts have none.
  std::array<std::uint64_t, kHashesMax> hashes;
  std::size_t count = 0;
};

// Keys of the blocks' hash, from the secret seed of a group: a guest cannot aim at another page's
// hashes, and sketches of two groups have nothing in common.
class Sketcher {
 public:
  explicit Sketcher(std::uint64_t seed) noexcept;
  Sketch operator()(const PageCopy& page) const noexcept;

 private:
  static constexpr std::size_t kBlock = 64;
  std::array<std::uint64_t, kBlock / 8> keys_;
};

}  // namespace ramfold::store
