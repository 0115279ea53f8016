// SPDX-License-Identifier: GPL-2.0-or-later
// Estimated prices of the steps of a page, for the encoder. They are no part of the format.
// Threads: constants.
#pragma once

#include <array>
#include <cstdint>

#include "store/mix/model.hpp"

namespace ramfold::store::mix {

// In units of 1/32 bit.
using Price = std::uint32_t;
inline constexpr Price kBitPrice = 32;

namespace detail {

// For a byte that occurs n times in the page, in bits:
//
//   price(n) = 0.7 * log2(4096 / n) + 0.5
//
// The factor is there because the contexts of the model do better than the frequency. The logarithm
// is computed digit by digit.
constexpr auto make_literal_prices() noexcept {
  std::array<std::uint16_t, kPage + 1> table{};
  for (unsigned n = 0; n <= kPage; ++n) {
    double x = (n == 0 ? 1.0 : static_cast<double>(n)) / kPage;
    Price price = 0;
    for (; x <= 0.5; x *= 2) price += kBitPrice;
    for (Price digit = kBitPrice / 2; digit != 0; digit /= 2) {
      x *= x;
      if (x > 0.5) continue;
      x *= 2;
      price += digit;
    }
    table[n] = static_cast<std::uint16_t>(price * 7 / 10 + kBitPrice / 2);
  }
  return table;
}
inline constexpr auto kLiteralPrices = make_literal_prices();

constexpr auto make_length_prices() noexcept {
  std::array<std::uint16_t, kPage + 1> table{};
  for (unsigned length = kLengthMin; length <= kPage; ++length) {
    const unsigned n = length - kLengthMin;
    const unsigned bits = n < 8 ? 4 : n < 16 ? 5 : 7 + extra_bits(slot_of(n - 16));
    table[length] = static_cast<std::uint16_t>(bits * kBitPrice);
  }
  return table;
}
inline constexpr auto kLengthPrices = make_length_prices();

}  // namespace detail

inline constexpr Price kLiteralPrice = kBitPrice;

// The price of a byte that occurs `count` times in the page, without kLiteralPrice.
constexpr Price literal_price(unsigned count) noexcept { return detail::kLiteralPrices[count]; }
constexpr Price length_price(unsigned length) noexcept { return detail::kLengthPrices[length]; }
constexpr Price again_price(unsigned which) noexcept {
  return (2 + (which < kRecent - 1 ? which + 1 : which)) * kBitPrice;
}
constexpr Price copy_price(unsigned distance) noexcept {
  return (7 + extra_bits(slot_of(distance - 1))) * kBitPrice;
}

}  // namespace ramfold::store::mix
