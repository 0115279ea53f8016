// SPDX-License-Identifier: GPL-2.0-or-later
// The sizes of slots in the arena. A slab of 128 KiB is cut into slots of one size. For each number
// of slots there is one class: the largest multiple of 16 bytes that gives this number of slots. So
// a slab has as little unused space at its end as possible.
// Threads: constants.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::store {

inline constexpr std::size_t kSlabBytes = 131072;
inline constexpr std::size_t kUnit = 16;     // slots begin and end on multiples of this
inline constexpr std::size_t kSlotMin = 32;  // less would be rare, and double the bitmaps
inline constexpr std::size_t kUnitsMax = kPageSize / kUnit;

struct SizeClass {
  std::uint16_t bytes = 0;  // of a slot
  std::uint16_t slots = 0;  // in a slab
};

struct SizeClasses {
  std::array<SizeClass, kUnitsMax> of{};
  std::array<std::uint8_t, kUnitsMax + 1> by_units{};
  std::size_t count = 0;

  constexpr SizeClasses() noexcept {
    for (std::size_t units = 1; units <= kUnitsMax; ++units) {
      const std::size_t least = units * kUnit < kSlotMin ? kSlotMin : units * kUnit;
      const std::size_t slots = kSlabBytes / least;
      const std::size_t bytes = kSlabBytes / slots / kUnit * kUnit;
      if (count == 0 || of[count - 1].bytes != bytes) {
        of[count++] = {static_cast<std::uint16_t>(bytes), static_cast<std::uint16_t>(slots)};
      }
      by_units[units] = static_cast<std::uint8_t>(count - 1);
    }
  }
};
inline constexpr SizeClasses kSizeClasses;
inline constexpr std::size_t kClasses = kSizeClasses.count;
inline constexpr std::size_t kSlotsMax = kSizeClasses.of[0].slots;
static_assert(kSizeClasses.of[0].bytes == kSlotMin && kSlotsMax == 4096);
static_assert(kSizeClasses.of[kClasses - 1].bytes == kPageSize);
static_assert(kClasses <= 256);  // by_units and Slab::size_class have 8 bits

// REQUIRES: 1 <= length <= 4096.
constexpr std::size_t class_of(std::uint32_t length) noexcept {
  return kSizeClasses.by_units[(length + kUnit - 1) / kUnit];
}

}  // namespace ramfold::store
