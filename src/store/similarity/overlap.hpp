// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the pieces that two pages have in common. A piece is 4 bytes at any byte of a page. This
// tells which of several pages is the best reference, in a fifth of the time of encoding the page
// with one of them.
// Threads: belongs to one.
#pragma once

#include <array>
#include <cstdint>

#include "base/page_copy.hpp"

namespace ramfold::store {

class Overlap {
 public:
  void begin(const PageCopy& page) noexcept;
  // How many different pieces of the page `other` has. Pieces with equal hashes count as equal.
  unsigned with(const PageCopy& other) noexcept;

 private:
  static constexpr unsigned kHashBits = 15;

  template <typename F>
  static void for_hashes(const PageCopy& page, F&& each) noexcept;
  bool has(std::uint16_t hash) const noexcept { return (seen_[hash / 64] >> hash % 64 & 1) != 0; }
  void set(std::uint16_t hash) noexcept { seen_[hash / 64] |= std::uint64_t{1} << hash % 64; }

  std::array<std::uint16_t, kPageSize> hashes_;  // of the page's pieces, each once
  std::size_t count_ = 0;
  std::array<std::uint64_t, (1u << kHashBits) / 64> seen_;
};

}  // namespace ramfold::store
