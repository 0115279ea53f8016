// SPDX-License-Identifier: GPL-2.0-or-later
// Where four bytes of the window occurred, the latest place first. To fill it costs more than all
// else that the encoder does, so it holds only places from which something is won:
// - of a run of one byte the two first and the two last places, as all others are like them;
// - of a block in which the page equals the reference every eighth place. The page has that block
//   where it belongs, so it is hardly looked for elsewhere, and if it is, a match may begin before
//   the place at which it was found.
// Threads: one encoder's.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "store/patch/window.hpp"

namespace ramfold::store::patch {

class MatchIndex {
 public:
  static constexpr unsigned kKey = 4;  // bytes that are hashed
  static constexpr std::uint16_t kNowhere = 0xffff;
  static constexpr unsigned kEighths = 8;

  std::uint16_t latest(std::uint32_t key) const noexcept { return head_[hash(key)]; }
  std::uint16_t before(std::uint16_t place) const noexcept { return chain_[place]; }

  void begin_with_reference(const Window& window) noexcept {
    std::memset(head_, 0xff, sizeof head_);
    std::uint64_t last = 0, now = window.equal64(0, 1);
    for (unsigned block = 0; block < kPage; block += 64) {
      const unsigned after = block + 64;
      const std::uint64_t next = after < kPage ? window.equal64(after, after + 1) : 0;
      // Bytes that equal the next one: from one before the place to three behind it.
      const std::uint64_t in_run = (now << 1 | last >> 63) & now & (now >> 1 | next << 63) &
                                   (now >> 2 | next << 62) & (now >> 3 | next << 61);
      std::uint64_t places = ~in_run;
      if (after == kPage) places &= ~std::uint64_t{0} >> (kKey - 1);  // keys end with the reference
      if (window.is_same_block(block)) places &= 0x0101'0101'0101'0101;
      add_places(window, block, places);
      last = now;
      now = next;
    }
  }
  void add(const Window& window, unsigned first, unsigned end) noexcept {
    for (; first < end; ++first) add(window, first);
  }

 private:
  static constexpr unsigned kHashBits = 13;

  static unsigned hash(std::uint32_t key) noexcept { return key * 2654435761u >> (32 - kHashBits); }

  void add_places(const Window& window, unsigned block, std::uint64_t places) noexcept {
    if (places == ~std::uint64_t{0}) return add(window, block, block + 64);
    for (; places != 0; places &= places - 1) {
      add(window, block + static_cast<unsigned>(std::countr_zero(places)));
    }
  }
  void add(const Window& window, unsigned place) noexcept {
    std::uint16_t& head = head_[hash(window.load_at<std::uint32_t>(place))];
    chain_[place] = head;
    head = static_cast<std::uint16_t>(place);
  }

  std::uint16_t head_[1 << kHashBits];
  std::uint16_t chain_[kWindow];
};

}  // namespace ramfold::store::patch
