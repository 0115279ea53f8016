// SPDX-License-Identifier: GPL-2.0-or-later
// The place and the form of a content's bytes, in one 64-bit word of its header. A reader loads the
// word once and has a consistent view. A writer that moves the bytes changes the word in one step.
// Part of the format (docs/store-format.md).
//
//   bits  0-35  offset in the arena, or in the pool of the group, in units of 16 bytes
//        36-47  encoded length in bytes, less one
//        48-51  form
//        52-53  how the page was transposed before it was encoded (0 but in lz4, zstd and delta)
//        54-55  place: 0 the arena in memory, 1 reserved for disk, 2 the pool of the group
//               (store/pool), 3 unused. 1 and 3 are not written; a content with such a place reads
//               as corrupt
//        56-59  version of this word
//        60     valid: the header is published
//        61     bad: the bytes did not match the checksum; never shared, never freed while running
//        62-63  zero
// Threads: a value.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"
#include "store/arena/size_classes.hpp"
#include "store/codec/transpose.hpp"
#include "store/extent.hpp"
#include "store/form.hpp"
#include "store/pool/slot.hpp"

namespace ramfold::store {

constexpr bool may_transpose(Form form, Transpose transpose) noexcept {
  return transpose <= Transpose::words8 &&
         (form == Form::lz4 || form == Form::zstd || form == Form::delta);
}

enum class Place : std::uint8_t { arena = 0, disk = 1, pool = 2 };

// A pool has the size of the arena, but not more than this. All pools are mapped by the daemon, and
// 4096 of them fit into its address space.
inline constexpr ByteCount kPoolMax{std::uint64_t{16} << 30};
constexpr ByteCount pool_bytes_for(ByteCount arena) noexcept {
  return arena < kPoolMax ? arena : kPoolMax;
}

class Where {
 public:
  // Older than the store's version: the words of a store of kFormatWithoutPools are the same, and a
  // daemon that knows no pools takes a place in a pool for damage.
  static constexpr std::uint64_t kVersion = 4;
  static constexpr std::uint64_t kBad = std::uint64_t{1} << 61;

  constexpr Where() noexcept = default;
  constexpr explicit Where(std::uint64_t bits) noexcept : bits_(bits) {}
  // REQUIRES: the offset is a multiple of 16 below 1 TiB, the length 1..4096.
  constexpr Where(Extent at, Form form, Transpose transpose = Transpose::none) noexcept
      : bits_((at.offset / kUnit) | (std::uint64_t{at.length - 1} << kLengthShift) |
              (static_cast<std::uint64_t>(form) << kFormShift) |
              (static_cast<std::uint64_t>(transpose) << kTransposeShift) |
              (kVersion << kVersionShift) | kValid) {}

  // A raw page in a slot of the pool. REQUIRES: slot 1 or more, below the end of the pool.
  static constexpr Where in_pool(PoolSlot slot) noexcept {
    const Where raw({std::uint64_t{slot.value} * kPageSize, kPageSize}, Form::raw);
    return Where(raw.bits_ | static_cast<std::uint64_t>(Place::pool) << kPlaceShift);
  }

  constexpr std::uint64_t bits() const noexcept { return bits_; }
  constexpr bool valid() const noexcept { return (bits_ & kValid) != 0; }
  constexpr bool bad() const noexcept { return (bits_ & kBad) != 0; }
  constexpr Form form() const noexcept { return static_cast<Form>((bits_ >> kFormShift) & 0xf); }
  constexpr Transpose transpose() const noexcept {
    return static_cast<Transpose>((bits_ >> kTransposeShift) & 0x3);
  }
  // May be a number that this version does not know.
  constexpr Place place() const noexcept {
    return static_cast<Place>((bits_ >> kPlaceShift) & kPlaceMask);
  }
  // Another content, the reference, is needed to decode it.
  constexpr bool has_reference() const noexcept { return needs_reference(form()); }
  constexpr Extent extent() const noexcept {
    return {(bits_ & kOffsetMask) * kUnit,
            static_cast<std::uint32_t>((bits_ >> kLengthShift) & 0xfff) + 1};
  }
  // REQUIRES: place() is the pool.
  constexpr PoolSlot slot() const noexcept {
    return PoolSlot{static_cast<std::uint32_t>(extent().offset / kPageSize)};
  }
  // True when every field has a value that this version writes, and the bytes lie within one slab
  // of an arena of this size, or within one slot of its pools. Then it is safe to read the bytes,
  // whatever they are. A header from a file is used only after this check.
  constexpr bool sound(ByteCount arena) const noexcept {
    if (!valid() || (bits_ & kZeroBits) != 0) return false;
    if (((bits_ >> kVersionShift) & 0xf) != kVersion) return false;
    const Extent at = extent();
    if (place() != Place::arena) {
      return place() == Place::pool && form() == Form::raw && at.length == kPageSize &&
             transpose() == Transpose::none && at.offset % kPageSize == 0 && at.offset != 0 &&
             at.offset + kPageSize <= pool_bytes_for(arena).value;
    }
    return is_stored(form()) && (form() == Form::raw) == (at.length == kPageSize) &&
           (transpose() == Transpose::none || may_transpose(form(), transpose())) &&
           at.offset + at.length <= arena.value && at.offset % kSlabBytes + at.length <= kSlabBytes;
  }

 private:
  static constexpr std::uint64_t kOffsetMask = (std::uint64_t{1} << 36) - 1;
  static constexpr unsigned kLengthShift = 36;
  static constexpr unsigned kFormShift = 48;
  static constexpr unsigned kTransposeShift = 52;
  static constexpr unsigned kPlaceShift = 54;
  static constexpr std::uint64_t kPlaceMask = 0x3;
  static constexpr unsigned kVersionShift = 56;
  static constexpr std::uint64_t kZeroBits = std::uint64_t{3} << 62;
  static constexpr std::uint64_t kValid = std::uint64_t{1} << 60;

  // The fields are adjacent and fill the whole word.
  static_assert(std::bit_width(kOffsetMask) == kLengthShift && kLengthShift + 12 == kFormShift &&
                kFormShift + 4 == kTransposeShift && kTransposeShift + 2 == kPlaceShift &&
                kPlaceShift + std::bit_width(kPlaceMask) == kVersionShift &&
                kValid == std::uint64_t{1} << (kVersionShift + 4) && kBad == kValid << 1 &&
                kZeroBits == (kBad << 1 | kBad << 2));
  static_assert(kOffsetMask * kUnit + kUnit == std::uint64_t{1} << 40);

  std::uint64_t bits_ = 0;
};
static_assert(sizeof(Where) == 8);
static_assert(Where({0, kPageSize}, Form::raw).place() == Place::arena);
static_assert(Where({0, kPageSize}, Form::raw).sound(ByteCount{kSlabBytes}));
static_assert(Where::in_pool(PoolSlot{1}).place() == Place::pool);

}  // namespace ramfold::store
