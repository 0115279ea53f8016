// SPDX-License-Identifier: GPL-2.0-or-later
// Guesses which folded pages the guest will touch next, so that they come back with the page that
// it touches now. The guess is a window: an aligned block of 1 to 16 pages around that page.
//
// What was brought last is remembered, as kRecent runs. Nobody sees whether the guest touches a
// page that is there. But the page right before or right behind a run is folded, and a touch of it
// is a fault. So a fault there says that the guest went through the run:
//
//   a fault                                    the window
//   beside a recent run                        twice that run's window, 16 pages at most
//   anywhere else                              the first window
//   beside a recent run, for the first time    the first window doubles, 8 pages at most
//   a run is forgotten, and none was beside it the first window halves
//
// So a guest that reads in a row, up or down, or in several rows at once, gets 16 pages with each
// fault; a guest that reads clusters begins each with 8; and a guest that reads at random gets one.
// The first window has at most 8 pages because clusters are often 16: at 16 no fault would follow.
// Threads: any. Threads that race may spoil a guess. A guess harms nobody: each page is owned and
// looked up before it comes.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::fault {

class NeighbourWindows {
 public:
  static constexpr std::uint64_t kPagesMax = 16;  // 64 KiB (HAZARDS, Time)

  struct Guess {
    PageRun window;  // contains the page
    std::size_t place;
    unsigned order;  // the window has 1 << order pages
    bool follows;    // the page is beside a recent run
  };

  Guess guess(PageIndex p) noexcept {
    for (std::size_t i = 0; i < kRecent; ++i) {
      const Recent run = unpack(recent_[i].load(std::memory_order_relaxed));
      if (run.pages == 0 || (p.value != run.first + run.pages && p.value + 1 != run.first))
        continue;
      if (!run.followed) set_first_order(first_order() + 1);
      const unsigned order = std::min(run.order + 1, kOrderMax);
      return {block(p, order), i, order, true};
    }
    const std::size_t place = next_.fetch_add(1, std::memory_order_relaxed) % kRecent;
    const Recent forgotten = unpack(recent_[place].load(std::memory_order_relaxed));
    if (forgotten.pages != 0 && !forgotten.followed && first_order() > 0) {
      set_first_order(first_order() - 1);
    }
    return {block(p, first_order()), place, first_order(), false};
  }
  // These pages of the guess are brought.
  void note(const Guess& guess, PageRun brought) noexcept {
    recent_[guess.place].store(
        pack({brought.first.value, brought.count.value, guess.order, guess.follows}),
        std::memory_order_relaxed);
  }
  // The kernel refused a part of a run: the next new place begins with one page.
  void shrink() noexcept { set_first_order(0); }

 private:
  static constexpr std::size_t kRecent = 16;
  static constexpr unsigned kOrderMax = 4;
  static constexpr unsigned kFirstOrderMax = 3;
  static_assert(std::uint64_t{1} << kOrderMax == kPagesMax);

  struct Recent {
    std::uint64_t first = 0;
    std::uint64_t pages = 0;  // 0: nothing is remembered here
    unsigned order = 0;
    bool followed = false;  // by a fault beside it, or it is beside a run itself
  };
  // From bit 0 up: followed, 3 bits of order, 5 bits of pages, first.
  static constexpr std::uint64_t pack(const Recent& r) noexcept {
    return r.first << 9 | r.pages << 4 | std::uint64_t{r.order} << 1 | (r.followed ? 1 : 0);
  }
  static constexpr Recent unpack(std::uint64_t bits) noexcept {
    return {bits >> 9, bits >> 4 & 31, static_cast<unsigned>(bits >> 1 & 7), (bits & 1) != 0};
  }
  static constexpr PageRun block(PageIndex p, unsigned order) noexcept {
    return {PageIndex{p.value >> order << order}, PageCount{std::uint64_t{1} << order}};
  }
  unsigned first_order() const noexcept { return first_order_.load(std::memory_order_relaxed); }
  void set_first_order(unsigned order) noexcept {
    first_order_.store(std::min(order, kFirstOrderMax), std::memory_order_relaxed);
  }

  std::array<std::atomic<std::uint64_t>, kRecent> recent_{};
  std::atomic<std::size_t> next_{0};
  std::atomic<unsigned> first_order_{0};
};

}  // namespace ramfold::fault
