// SPDX-License-Identifier: GPL-2.0-or-later
// The places of the window at which given four bytes occur, the latest first. To fill the index
// costs more than everything else that the encoder does. So it leaves out places that gain little:
// - Of a run of one byte it has the first two and the last two places: all others are like them.
// - Of a block of 64 bytes in which page and reference are equal, it has every eighth place. Such
//   bytes are rarely looked for elsewhere; and the encoder extends a match to the bytes before it.
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
      // Places in a run: a bit of `now` says that the byte equals the next one. It is set from one
      // place before to three places behind.
      const std::uint64_t in_run = (now << 1 | last >> 63) & now & (now >> 1 | next << 63) &
                                   (now >> 2 | next << 62) & (now >> 3 | next << 61);
      std::uint64_t places = ~in_run;
      if (after == kPage) places &= ~std::uint64_t{0} >> (kKey - 1);  // no key beyond the reference
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
