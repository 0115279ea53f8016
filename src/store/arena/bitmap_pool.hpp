// SPDX-License-Identifier: GPL-2.0-or-later
// Bitmaps for slabs that have more slots than the bitmap in their map entry. Chunks of one size in
// one growing piece of memory; a chunk never moves.
// Threads: one at a time (under the arena's pool lock). The bits of a chunk belong to its holder.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "base/types.hpp"
#include "store/arena/size_classes.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class BitmapPool {
 public:
  static constexpr std::size_t kWords = kSlotsMax / 64;
  static constexpr std::uint32_t kNone = 0xffff'ffff;

  static Result<BitmapPool> make(std::uint32_t chunks_max);
  BitmapPool(BitmapPool&& other) noexcept
      : memory_(std::move(other.memory_)), free_(other.free_), used_(other.used_.load()) {}

  // A chunk of zero bits.
  std::uint32_t allocate() noexcept;
  void free(std::uint32_t chunk) noexcept;
  std::span<std::uint64_t, kWords> bits(std::uint32_t chunk) const noexcept {
    return std::span<std::uint64_t, kWords>(memory_.as<std::uint64_t>() + chunk * kWords, kWords);
  }
  ByteCount bytes() const noexcept {
    return ByteCount{used_.load(std::memory_order_relaxed) * kWords * 8};
  }

 private:
  explicit BitmapPool(sys::Mapping memory) noexcept : memory_(std::move(memory)) {}

  sys::Mapping memory_;
  std::uint32_t free_ = kNone;          // first free chunk; its first word links the next
  std::atomic<std::uint32_t> used_{0};  // chunks below this were in use once
};

}  // namespace ramfold::store
