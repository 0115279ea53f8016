// SPDX-License-Identifier: GPL-2.0-or-later
// A check of a content's Where, kept beside it in the daemon's own memory. Nothing may be freed by
// a Where that changed by itself: the place that it names may be another content's.
// CRC-8 with x^8 + x^5 + x^3 + x^2 + x + 1: every damage of up to three bits of a word is seen, and
// of all other damage all but one in 256. The mark `bad` is left out: what carries it is never
// freed.
// Threads: a pure function.
#pragma once

#include <array>
#include <cstdint>

#include "store/where.hpp"

namespace ramfold::store {

inline constexpr auto kCrc8 = [] {
  std::array<std::uint8_t, 256> table{};
  for (unsigned byte = 0; byte < table.size(); ++byte) {
    unsigned crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x80) != 0 ? crc << 1 ^ 0x2f : crc << 1;
    table[byte] = static_cast<std::uint8_t>(crc);
  }
  return table;
}();

constexpr std::uint8_t check_of(Where where) noexcept {
  const std::uint64_t bits = where.bits() & ~Where::kBad;
  std::uint8_t crc = 0;
  for (unsigned shift = 64; shift != 0; shift -= 8) {
    crc = kCrc8[crc ^ static_cast<std::uint8_t>(bits >> (shift - 8))];
  }
  return crc;
}

}  // namespace ramfold::store
