// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages of a VM were touched lately: a byte a page, in memory that does not outlive the
// daemon. A page is asked about by forgetting it (scan/forget.hpp): if it is in QEMU's page table
// at the next look, it was touched.
//
//   0       not asked about
//   1..8    was touched, and seen this many times since its last question began
//   9..255  forgotten, and untouched at each of (byte - 9) looks since
//
// The state stands beside the word, because the word has no bits left, and because a daemon that
// starts does not know what was touched meanwhile.
// Threads: a page by the worker that has its chunk.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/result.hpp"
#include "base/types.hpp"
#include "scan/clock.hpp"
#include "sys/memory.hpp"

namespace ramfold::scan {

class History {
 public:
  // Takes memory only for pages that are asked about.
  static Result<History> make(PageCount pages) {
    auto bytes = sys::Mapping::anonymous(ByteCount{pages.value});
    if (!bytes) return std::unexpected(bytes.error());
    return History(std::move(*bytes));
  }

  // It was forgotten: it may be resident without an entry in QEMU's page table.
  bool is_forgotten(PageIndex p) const noexcept { return at(p) >= kForgotten; }
  // A look at the page. True: the guest has touched it since it was forgotten, which has cost it a
  // fault.
  bool see(PageIndex p, bool mapped) noexcept {
    std::uint8_t& state = at(p);
    if (state == kNotAsked) return false;
    if (state < kForgotten) {
      state = state + 1 == kForgotten ? kNotAsked : static_cast<std::uint8_t>(state + 1);
      return false;
    }
    if (!mapped) {
      state = static_cast<std::uint8_t>(std::min(state + 1, 255));
      return false;
    }
    state = kTouched;
    return true;
  }
  Touches touches(PageIndex p) const noexcept {
    using Known = Touches::Known;
    const std::uint8_t state = at(p);
    if (state == kNotAsked) return {Known::not_asked, 0};
    if (state < kForgotten) return {Known::touched, 0};
    return {Known::untouched, static_cast<unsigned>(state - kForgotten)};
  }
  // The page is forgotten from now on. What is known of untouched pages stays.
  void forget(PageIndex p) noexcept { at(p) = std::max(at(p), kForgotten); }

 private:
  static constexpr std::uint8_t kNotAsked = 0, kTouched = 1, kForgotten = 9;

  explicit History(sys::Mapping bytes) noexcept : bytes_(std::move(bytes)) {}
  std::uint8_t& at(PageIndex p) const noexcept { return bytes_.as<std::uint8_t>()[p.value]; }

  sys::Mapping bytes_;
};

}  // namespace ramfold::scan
