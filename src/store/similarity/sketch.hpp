// SPDX-License-Identifier: GPL-2.0-or-later
// What a page is known by when something like it is looked for: the smallest hashes of two families
// of 32-byte windows. Two pages that have windows in common often have one of their smallest hashes
// in common.
//   low    four 8-byte words at any word of the page, of which only the lower 16 bits count. The
//          upper bits are what differs most between guests: where the kernel, a library or a heap
//          was loaded, a multiple of a page at least. Windows with fewer than two words that are
//          not zero there tell nothing and are left out.
//   bytes  32 bytes as they are, at any byte where a rolling hash of them says so (one of 32), so
//          that bytes are found that have moved. Zeros are left out.
// Each finds what the other does not: one alone is worth two thirds of what both find.
// Threads: pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/page_copy.hpp"

namespace ramfold::store {

struct Sketch {
  static constexpr std::size_t kOfFamily = 8;
  static constexpr std::size_t kHashesMax = 2 * kOfFamily;

  // Ascending, all different.
  struct Smallest {
    std::array<std::uint64_t, kOfFamily> hashes;
    std::size_t count = 0;
  };
  Smallest low;
  Smallest bytes;

  bool empty() const noexcept { return low.count + bytes.count == 0; }
};

// Keys of the hashes, the rolling one too, from the secret seed of a group: a guest cannot aim at
// another page's hashes, and sketches of two groups have nothing in common.
class Sketcher {
 public:
  explicit Sketcher(std::uint64_t seed) noexcept;
  ~Sketcher();  // wipes the keys
  Sketcher(const Sketcher&) = delete;
  Sketcher& operator=(const Sketcher&) = delete;
  Sketch operator()(const PageCopy& page) const noexcept;

 private:
  static constexpr std::size_t kWindow = 32;

  void add_low(const PageCopy& page, Sketch::Smallest& to) const noexcept;
  void add_bytes(const PageCopy& page, Sketch::Smallest& to) const noexcept;

  std::array<std::uint64_t, 2> low_keys_;
  std::array<std::uint64_t, kWindow / 8> bytes_keys_;
  std::array<std::uint32_t, 256> rolling_keys_;
  std::uint32_t rolling_of_zeros_ = 0;
};

}  // namespace ramfold::store
