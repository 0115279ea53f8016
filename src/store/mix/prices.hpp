// SPDX-License-Identifier: GPL-2.0-or-later
// What bits cost: a Coder for the Model that only counts, so that the encoder can weigh its steps.
// Threads: values and constants.
#pragma once

#include <array>
#include <cstdint>

#include "store/mix/model.hpp"

namespace ramfold::store::mix {

// In units of 1/32 bit.
using Price = std::uint32_t;
inline constexpr Price kBitPrice = 32;

namespace detail {

// log2 by squaring: 5 bits behind the point.
constexpr auto make_prices() noexcept {
  std::array<std::uint16_t, kOne / 8> table{};
  for (std::size_t i = 0; i < table.size(); ++i) {
    double x = (static_cast<double>(i) + 0.5) / static_cast<double>(table.size());
    Price price = 0;
    while (x < 0.5) {
      x *= 2;
      price += kBitPrice;
    }
    // -log2(x) for x in [0.5, 1): digit by digit.
    for (Price digit = kBitPrice / 2; digit != 0; digit /= 2) {
      x *= x;
      if (x < 0.5) {
        x *= 2;
        price += digit;
      }
    }
    table[i] = static_cast<std::uint16_t>(price);
  }
  return table;
}

inline constexpr auto kPrices = make_prices();

}  // namespace detail

constexpr Price price_of(int p, unsigned bit) noexcept {
  return detail::kPrices[static_cast<std::size_t>(bit != 0 ? p : kOne - 1 - p) / 8];
}

class Counter {
 public:
  static constexpr bool kLearns = false;

  unsigned bit(int p, unsigned bit) noexcept {
    sum_ += price_of(p, bit);
    return bit;
  }
  Price sum() const noexcept { return sum_; }

 private:
  Price sum_ = 0;
};

}  // namespace ramfold::store::mix
