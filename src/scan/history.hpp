// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages of a VM were touched lately: a byte a page, in memory that does not outlive the
// daemon. A source (scan/referenced.hpp) is asked about a page, and tells at the next look whether
// the page was touched.
//
//   0       not asked about
//   1..8    was touched, and seen this many times since its last question began
//   9..255  asked about, and untouched at each of (byte - 9) looks since
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
#include "sys/resident.hpp"

namespace ramfold::scan {

class History {
 public:
  static ByteCount size(PageCount pages) noexcept { return ByteCount{pages.value}; }
  ByteCount in_memory() const noexcept { return sys::resident(bytes_); }
  // Takes memory only for pages that are asked about.
  static Result<History> make(PageCount pages) {
    auto bytes = sys::Mapping::anonymous(size(pages));
    if (!bytes) return std::unexpected(bytes.error());
    return History(std::move(*bytes));
  }

  // A source was asked about it, and it was not touched since, as far as is known. If it was
  // forgotten, it may be resident without an entry in QEMU's page table.
  bool is_asked(PageIndex p) const noexcept { return at(p) >= kAsked; }
  // A look at the page; `touched`: the source's answer. True: the guest has touched it since it was
  // asked about.
  bool see(PageIndex p, bool touched) noexcept {
    std::uint8_t& state = at(p);
    if (state == kNotAsked) return false;
    if (state < kAsked) {
      state = state + 1 == kAsked ? kNotAsked : static_cast<std::uint8_t>(state + 1);
      return false;
    }
    if (!touched) {
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
    if (state < kAsked) return {Known::touched, 0};
    return {Known::untouched, static_cast<unsigned>(state - kAsked)};
  }
  // From now on its source can tell of touches. What is known of untouched pages stays.
  void ask(PageIndex p) noexcept { at(p) = std::max(at(p), kAsked); }

 private:
  static constexpr std::uint8_t kNotAsked = 0, kTouched = 1, kAsked = 9;

  explicit History(sys::Mapping bytes) noexcept : bytes_(std::move(bytes)) {}
  std::uint8_t& at(PageIndex p) const noexcept { return bytes_.as<std::uint8_t>()[p.value]; }

  sys::Mapping bytes_;
};

}  // namespace ramfold::scan
