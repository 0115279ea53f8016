// SPDX-License-Identifier: GPL-2.0-or-later
// Runs of set bits of a window's mask.
#pragma once

#include <bit>
#include <cstdint>

#include "guest/quiet_proof.hpp"
#include "sys/pagemap.hpp"

namespace ramfold::fold {

constexpr guest::PageMask bit(unsigned i) noexcept { return guest::PageMask{1} << i; }

// REQUIRES: first + count <= kProofPagesMax.
constexpr guest::PageMask bits(unsigned first, unsigned count) noexcept {
  return guest::all_pages(PageCount{count}) << first;
}

constexpr guest::PageMask without(guest::PageMask from, guest::PageMask what) noexcept {
  return from & ~what;
}

// The region's pages in the mask of the range that was scanned.
constexpr guest::PageMask pages_of(const sys::PageRegion& region, sys::UffdRange range) noexcept {
  const auto first = static_cast<unsigned>((region.start - range.start.value) >> kPageShift);
  const auto count = static_cast<unsigned>((region.end - region.start) >> kPageShift);
  return bits(first, count);
}

// Calls f(first, count) for every run of neighbouring set bits, in order.
template <typename F>
constexpr void for_each_run(guest::PageMask mask, F f) {
  while (mask != 0) {
    const auto first = static_cast<unsigned>(std::countr_zero(mask));
    const auto count = static_cast<unsigned>(std::countr_one(mask >> first));
    f(first, count);
    mask = without(mask, bits(first, count));
  }
}

template <typename F>
constexpr void for_each_bit(guest::PageMask mask, F f) {
  for (; mask != 0; mask &= mask - 1) f(static_cast<unsigned>(std::countr_zero(mask)));
}

}  // namespace ramfold::fold
