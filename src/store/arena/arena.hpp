// SPDX-License-Identifier: GPL-2.0-or-later
// Room for encoded contents: one sparse memory file, cut into slabs of 64 KiB, each cut into slots
// of one size class. A new content goes to the fullest slab of its class, so that others run empty;
// an empty slab is given back to the host by punching it. Where the free slots of a class would
// hold all that is in one of its slabs, that slab's contents may move to fuller ones. Which slots
// are in use is volatile, told by the headers.
//
// Threads: allocate, free and trim from any thread, data() without a lock. Everything under
// "recovery" is for one thread, while nobody allocates or frees. Locks: one per class, then the
// pool's; never held over a system call. Invariants: a slab belongs to one class from its first
// slot to its last. Memory is behind a slab before anything is written to it (MADV_POPULATE_WRITE),
// so that a host without memory is an error where the kernel says so, never SIGBUS.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/arena/bitmap_pool.hpp"
#include "store/arena/size_classes.hpp"
#include "store/where.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Arena {
 public:
  static Result<sys::Fd> make_file(ByteCount size);
  // REQUIRES: `file` stays open while this lives.
  static Result<std::unique_ptr<Arena>> open(sys::BorrowedFd file, ByteCount size);

  ByteCount size() const noexcept { return ByteCount{data_.size()}; }
  std::byte* data(Extent at) const noexcept { return data_.data() + at.offset; }
  // All of it at once: a decoder asks for one line after the other.
  void prefetch(Extent at) const noexcept {
    for (std::uint32_t i = 0; i < at.length; i += kCacheLine) __builtin_prefetch(data(at) + i);
  }

  // A slot of at least `length` bytes. Errors: ENOSPC the arena is full, ENOMEM the host is.
  Result<Extent> allocate(std::uint32_t length);
  // allocate_denser() would find something. `at` may have been freed meanwhile.
  bool may_move(Extent at) noexcept;
  // A slot of the same class in a slab at least as full, if the whole slab of `at` could be emptied
  // into such; nothing otherwise. Takes no new memory. REQUIRES: `at` is in use.
  std::optional<Extent> allocate_denser(Extent at) noexcept;
  // REQUIRES: the extent came from an allocation or claim() and no header names it any more.
  void free(Extent at) noexcept;
  // Gives empty slabs back, but for a few.
  void trim() noexcept { release_empty(kEmptyKept); }
  // Every one of them.
  void trim_all() noexcept { release_empty(0); }

  // Recovery: a header names this extent. conflict: its place cannot be a slot beside those claimed
  // before it; see freeze().
  enum class Claimed : std::uint8_t { yes, conflict };
  Claimed claim(Extent at) noexcept;
  // Recovery: the slab holds something that fits no map. Nothing in it is allocated or freed until
  // the next recovery.
  void freeze(Extent at) noexcept;
  // Recovery, once after the last claim: gives everything back that nobody claimed.
  Status finish_claims();

  ByteCount allocated() const noexcept {
    return ByteCount{slabs_backed_.load(std::memory_order_relaxed) * kSlabBytes};
  }
  ByteCount in_slots() const noexcept {
    return ByteCount{slot_bytes_.load(std::memory_order_relaxed)};
  }
  ByteCount map_bytes() const noexcept {
    return ByteCount{slabs_known_.load(std::memory_order_relaxed) * sizeof(Slab) +
                     bitmaps_.bytes().value};
  }

 private:
  static constexpr std::uint32_t kNone = 0xffff'ffff;
  static constexpr std::uint32_t kCacheLine = 64;
  static constexpr std::size_t kLevels = 4;        // of fullness, a list each
  static constexpr std::uint32_t kEmptyKept = 16;  // 1 MiB: reused without a system call
  static constexpr std::uint32_t kEmptyMax = 64;   // 4 MiB: then whoever frees gives one back
  static constexpr std::size_t kInlineSlots = 128;

  enum class State : std::uint8_t { absent, empty, active, frozen };
  struct Slab {
    std::uint32_t previous;
    std::uint32_t next;
    std::uint16_t used;
    std::uint8_t size_class;
    State state;
    std::uint32_t bitmap;  // chunk of the pool when the class has more than kInlineSlots slots
    std::array<std::uint64_t, kInlineSlots / 64> bits;
  };
  static_assert(sizeof(Slab) == 32);

  struct alignas(64) ClassLists {
    Mutex mutex;
    std::array<std::uint32_t, kLevels> partial GUARDED_BY(mutex) = {kNone, kNone, kNone, kNone};
    std::uint64_t free_slots GUARDED_BY(mutex) = 0;  // in slabs that are in use
  };

  Arena(sys::BorrowedFd fd, sys::Mapping data, sys::Mapping slabs, BitmapPool bitmaps) noexcept;

  static std::size_t level_of(const Slab& slab) noexcept;
  std::span<std::uint64_t> bits_of(Slab& slab) noexcept;
  std::uint32_t slabs_max() const noexcept {
    return static_cast<std::uint32_t>(data_.size() / kSlabBytes);
  }
  Extent take_slot(ClassLists& lists, std::uint32_t slab, std::uint32_t length) noexcept
      REQUIRES(lists.mutex);
  void link(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  void unlink(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  // A slab that slots of `slab` may move to; kNone.
  std::uint32_t denser_slab(const ClassLists& lists, std::uint32_t slab) const noexcept
      REQUIRES(lists.mutex);
  Result<std::uint32_t> new_slab();
  void start(std::uint32_t slab, std::size_t size_class) noexcept EXCLUDES(pool_mutex_);
  void retire(std::uint32_t slab) noexcept EXCLUDES(pool_mutex_);
  Status release_unclaimed() noexcept;
  void release_empty(std::uint32_t keep) noexcept EXCLUDES(pool_mutex_);

  int fd_;
  sys::Mapping data_;
  sys::Mapping slab_memory_;
  Slab* slabs_;
  std::array<ClassLists, kClasses> classes_;

  Mutex pool_mutex_;
  BitmapPool
      bitmaps_;  // chunks are handed out under pool_mutex_; a chunk's bits belong to its slab
  std::uint32_t empty_ GUARDED_BY(pool_mutex_) = kNone;
  std::uint32_t empty_count_ GUARDED_BY(pool_mutex_) = 0;
  std::uint32_t absent_ GUARDED_BY(pool_mutex_) = kNone;

  std::atomic<std::uint32_t> slabs_known_{0};  // slabs below this were in use once
  std::atomic<std::uint64_t> slabs_backed_{0};
  std::atomic<std::uint64_t> slot_bytes_{0};
};

}  // namespace ramfold::store
