// SPDX-License-Identifier: GPL-2.0-or-later
// Runs of set bits of a window's mask.
#pragma once

#include <bit>
#include <cstdint>

#include "sys/pagemap.hpp"

namespace ramfold::fold {

constexpr std::uint16_t bit(unsigned i) noexcept { return static_cast<std::uint16_t>(1u << i); }

constexpr std::uint16_t without(std::uint16_t from, std::uint16_t what) noexcept {
  return static_cast<std::uint16_t>(from & ~what);
}

// The region's pages in the mask of the range that was scanned.
constexpr std::uint16_t pages_of(const sys::PageRegion& region, sys::UffdRange range) noexcept {
  const auto first = static_cast<unsigned>((region.start - range.start.value) >> kPageShift);
  const auto count = static_cast<unsigned>((region.end - region.start) >> kPageShift);
  return static_cast<std::uint16_t>(((1u << count) - 1u) << first);
}

// Calls f(first, count) for every run of neighbouring set bits, in order.
template <typename F>
constexpr void for_each_run(std::uint16_t mask, F f) {
  unsigned rest = mask;
  while (rest != 0) {
    const auto first = static_cast<unsigned>(std::countr_zero(rest));
    const auto count = static_cast<unsigned>(std::countr_one(rest >> first));
    f(first, count);
    rest &= ~(((1u << count) - 1u) << first);
  }
}

template <typename F>
constexpr void for_each_bit(std::uint16_t mask, F f) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1)
    f(static_cast<unsigned>(std::countr_zero(rest)));
}

}  // namespace ramfold::fold
