// SPDX-License-Identifier: GPL-2.0-or-later
// The first byte of every step of a patch, by ranges; docs/patch-format.md has the grammar.
// Threads: constants.
#pragma once

#include <cstdint>

#include "base/types.hpp"

namespace ramfold::store::patch {

inline constexpr unsigned kPage = static_cast<unsigned>(kPageSize);
// The source of a copy is a distance back in the window: the reference, followed by the page.
inline constexpr unsigned kStartDistance = kPage;
inline constexpr unsigned kAmountsMax = 4;
inline constexpr unsigned kFieldMax = 8;

// The number that a fix adds to a field of `width` bytes.
struct Amount {
  std::uint64_t value = 0;
  std::uint64_t mask = 0;
  unsigned width = 0;  // bytes; 0: no amount yet
};

// Ranges of the first byte; each begins where the one before ends.
inline constexpr unsigned kFix0 = 0x00;     // copy 0..127 bytes, then add the latest amount (0)
inline constexpr unsigned kFix1 = 0x80;     // copy 0..15 bytes, then add amount 1
inline constexpr unsigned kFix2 = 0x90;     // copy 0..7 bytes, then add amount 2
inline constexpr unsigned kFix3 = 0x98;     // copy 0..7 bytes, then add amount 3
inline constexpr unsigned kFixLong = 0xa0;  // amount 0..3; the length of the copy follows
// kFix0 to kFix3, and the end of kFix3.
inline constexpr unsigned kShortFixes[kAmountsMax + 1] = {kFix0, kFix1, kFix2, kFix3, kFixLong};
inline constexpr unsigned kRepeat = 0xa4;    // the last fix again 2..8 times, or 9 + number
inline constexpr unsigned kNewSmall = 0xac;  // field of 1..4 bytes, copy 0..6 or 7 + number
inline constexpr unsigned kNewWide = 0xcc;   // field of 5..8 bytes; the copy's length follows
inline constexpr unsigned kLiteral = 0xd0;   // 1..11 bytes, or 12 + number
inline constexpr unsigned kCopy = 0xdc;      // 1..11 bytes, or 12 + number
inline constexpr unsigned kCopyNear = 0xe8;  // distance 1..256 follows; 3..9 bytes, or 10 + number
inline constexpr unsigned kCopyFar =
    0xf0;  // distance 1..8191 follows; 4..130 bytes, or 131 + number

// A number takes one byte up to 191, and two bytes above.
inline constexpr unsigned kNumberShort = 0xc0;

inline constexpr unsigned kNearDistanceMax = 256;
inline constexpr unsigned kNearLengthMin = 3;
inline constexpr unsigned kFarLengthMin = 4;
inline constexpr unsigned kFarLengthLong = 127;  // in the 7 bits: a number follows

// A mask of the lowest `width` bytes. REQUIRES: 1 <= width <= kFieldMax.
constexpr std::uint64_t field_mask(unsigned width) noexcept {
  return width == kFieldMax ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * width) - 1;
}

}  // namespace ramfold::store::patch
