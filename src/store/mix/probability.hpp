// SPDX-License-Identifier: GPL-2.0-or-later
// The probability of a bit, and how it is learnt. All in whole numbers and tables that the compiler
// computes. They are part of the format, and the same on every machine.
// Threads: values and constants.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace ramfold::store::mix {

// Probabilities are in units of 1/4096, never 0 or 1.
inline constexpr int kOne = 4096;

// The opinions of contexts are added in the logistic domain: stretch(p) = ln(p / (1 - p)), in units
// of 1/256.
inline constexpr int kStretchMax = 2047;

namespace detail {

// To be small, the tables have one entry for every kStep arguments.
inline constexpr std::size_t kStep = 4;

// e^x for |x| <= 8. Compilers evaluate each operation by the rules of IEEE 754 doubles. So the
// tables are the same everywhere; a test compares their checksum.
constexpr double exponential(double x) noexcept {
  const double part = x / 64;
  double sum = 1;
  double term = 1;
  for (int i = 1; i <= 12; ++i) {
    term = term * part / i;
    sum += term;
  }
  for (int i = 0; i < 6; ++i) sum *= sum;
  return sum;
}

constexpr auto make_squash() noexcept {
  std::array<std::uint16_t, 2 * (kStretchMax + 1) / kStep> table{};
  for (std::size_t i = 0; i < table.size(); ++i) {
    const double x = (static_cast<double>(i * kStep) + 1.5 - (kStretchMax + 1)) / 256;
    const int p = static_cast<int>(kOne / (1 + exponential(-x)));
    table[i] = static_cast<std::uint16_t>(std::clamp(p, 1, kOne - 1));
  }
  return table;
}

inline constexpr auto kSquash = make_squash();

// The inverse of kSquash: the first place in kSquash whose value is not below p.
constexpr auto make_stretch() noexcept {
  std::array<std::int16_t, kOne / kStep> table{};
  std::size_t at = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    while (at + 1 < kSquash.size() && kSquash[at] < i * kStep + kStep / 2) ++at;
    table[i] = static_cast<std::int16_t>(static_cast<int>(at * kStep) - (kStretchMax + 1));
  }
  return table;
}

inline constexpr auto kStretch = make_stretch();

}  // namespace detail

// REQUIRES: |x| <= kStretchMax.
constexpr int squash(int x) noexcept {
  return detail::kSquash[static_cast<std::size_t>(x + kStretchMax + 1) / detail::kStep];
}
constexpr int stretch(int p) noexcept {
  return detail::kStretch[static_cast<std::size_t>(p) / detail::kStep];
}

// The history of one binary decision in one context: the probability of a 1, and how often the
// decision was made, up to 15 times. The first ones change the probability most.
class Bit {
 public:
  constexpr int p() const noexcept { return std::max(bits_ >> kCountBits, 1); }
  // The decision was never made.
  constexpr bool is_new() const noexcept { return (bits_ & kCountMax) == 0; }
  constexpr void learn(int bit) noexcept {
    const int p = bits_ >> kCountBits;
    const unsigned count = bits_ & kCountMax;
    const int next = p + (((bit != 0 ? kOne - 1 : 0) - p) * kRates[count] >> kRateBits);
    bits_ = static_cast<std::uint16_t>((next << kCountBits) +
                                       static_cast<int>(count + (count != kCountMax)));
  }

 private:
  static constexpr unsigned kCountBits = 4;
  static constexpr unsigned kCountMax = 15;
  static constexpr int kRateBits = 10;
  // How far p moves to the bit that was seen: about 1 / (count + 1.5), but no less than 50/1024. In
  // units of 1/1024.
  static constexpr std::array<std::int16_t, kCountMax + 1> kRates{
      410, 300, 230, 184, 154, 131, 115, 102, 91, 83, 76, 70, 65, 61, 57, 50};

  std::uint16_t bits_ = (kOne / 2) << kCountBits;
};
static_assert(sizeof(Bit) == 2);

}  // namespace ramfold::store::mix
