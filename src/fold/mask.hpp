// SPDX-License-Identifier: GPL-2.0-or-later
// Runs of set bits of a window's mask.
#pragma once

#include <bit>
#include <cstdint>

namespace ramfold::fold {

constexpr std::uint16_t bit(unsigned i) noexcept { return static_cast<std::uint16_t>(1u << i); }

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
