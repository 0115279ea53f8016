// SPDX-License-Identifier: GPL-2.0-or-later
// Room for encoded contents: one sparse memory file, cut into slabs of 128 KiB, each cut into slots
// of one size class. Memory stands behind the first steps of a slab, as many as its slots needed so
// far. A new content goes to the fullest slab of its class and there to the first free slot, so
// that other slabs and the ends of slabs run empty; both are given back to the host by punching
// them. Where free slots of fuller slabs would hold all that is in a slab, or in its last steps, or
// free slots further to the front would, that may move there. Which slots are in use, and how many
// steps have memory, is volatile, told by the headers.
//
// Threads: allocate, free and trim from any thread, data() without a lock. Everything under
// "recovery" is for one thread, while nobody allocates or frees. Locks: one per class, then the
// pool's; never held over a system call. Who gives a slab memory or takes it holds the slab alone
// meanwhile (State::changing): nobody takes a slot in it, only frees. Invariants: a slab belongs to
// one class from its first slot to its last. Memory is behind a slot before anything is written to
// it (MADV_POPULATE_WRITE), so that a host without memory is an error where the kernel says so,
// never SIGBUS.
#pragma once

#include <algorithm>
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
  // What a slab gets and gives back memory in multiples of.
  static constexpr std::size_t kStepBytes = 4096;
  // What lay unused for as many calls of trim() is given back: two seconds of the housekeeping's.
  static constexpr unsigned kTrimsAPeriod = 8;

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
  // A slot of the same class in a slab at least as full, or further to the front of the same slab,
  // if steps of the slab of `at` could come free by such moves and what is in `at` has to go for
  // it; nothing otherwise. Takes no new memory. REQUIRES: `at` is in use.
  std::optional<Extent> allocate_denser(Extent at) noexcept;
  // REQUIRES: the extent came from an allocation or claim() and no header names it any more.
  void free(Extent at) noexcept;
  // Gives memory back that holds nothing: what is more than kEmptyKept of empty slabs, and what no
  // one has wanted for some calls. For a housekeeping thread, a few times a second.
  void trim() noexcept;
  // All that holds nothing.
  void trim_all() noexcept;

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
    return ByteCount{steps_backed_.load(std::memory_order_relaxed) * kStepBytes};
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
  static constexpr std::size_t kLevels = 4;  // of fullness, a list each
  static constexpr std::uint32_t kSteps = kSlabBytes / kStepBytes;
  // Steps that a slab gets at once: for the first of a class in a period of trims, and the next.
  static constexpr std::uint32_t kStepsFirst = 4;
  static constexpr std::uint32_t kStepsMore = 16;
  // Without use at the end of a slab: then whoever frees gives them back. A slab that grew for one
  // slot has fewer.
  static constexpr std::uint32_t kStepsSlack = kStepsMore + kStepsFirst;
  static constexpr std::uint32_t kEmptyKept = 256;  // steps, 1 MiB: reused without a system call
  static constexpr std::uint32_t kEmptyMax = 1024;  // steps, 4 MiB: then whoever frees gives back
  static constexpr std::uint32_t kShrunkMax = 32;   // slabs of a class in one trim
  static constexpr std::size_t kInlineSlots = 320;

  // changing: as active, but in no list, and one thread gives it memory or takes it.
  enum class State : std::uint8_t { absent, empty, active, changing, frozen };
  struct Slab {
    std::uint32_t previous;
    std::uint32_t next;
    std::uint32_t bitmap;  // chunk of the pool when the class has more than kInlineSlots slots
    std::uint16_t used;
    std::uint16_t usable;      // slots that have memory behind all of them; those in use are below
    std::atomic<State> state;  // with size_class: see belongs()
    std::atomic<std::uint8_t> size_class;
    std::uint8_t steps;       // that have memory behind them
    std::uint8_t first_word;  // of the bitmap that may have a free slot
    std::array<std::uint64_t, kInlineSlots / 64> bits;
  };
  static_assert(sizeof(Slab) == 64);

  struct alignas(64) ClassLists {
    Mutex mutex;
    // Slabs with free slots among the usable ones, by fullness.
    std::array<std::uint32_t, kLevels> partial GUARDED_BY(mutex) = {kNone, kNone, kNone, kNone};
    // Slabs that are full as far as they have memory.
    std::uint32_t growable GUARDED_BY(mutex) = kNone;
    bool grew GUARDED_BY(mutex) = false;             // since the last period of trims began
    std::uint64_t free_slots GUARDED_BY(mutex) = 0;  // usable ones of the slabs in `partial`
  };

  Arena(sys::BorrowedFd fd, sys::Mapping data, sys::Mapping slabs, BitmapPool bitmaps) noexcept;

  static constexpr std::uint32_t slab_of(Extent at) noexcept {
    return static_cast<std::uint32_t>(at.offset / kSlabBytes);
  }
  static constexpr std::size_t slot_of(Extent at, SizeClass c) noexcept {
    return at.offset % kSlabBytes / c.bytes;
  }
  static SizeClass class_in(const Slab& slab) noexcept {
    return kSizeClasses.of[slab.size_class.load(std::memory_order_relaxed)];
  }
  static std::size_t level_of(const Slab& slab, SizeClass c) noexcept {
    return slab.used * kLevels / c.slots;
  }
  // Slots with memory behind all of them.
  static std::uint16_t usable_of(const Slab& slab, SizeClass c) noexcept {
    return static_cast<std::uint16_t>(
        std::min<std::size_t>(c.slots, slab.steps * kStepBytes / c.bytes));
  }
  // As many steps as these slots need.
  static std::uint32_t steps_for(std::size_t slots, SizeClass c) noexcept {
    return static_cast<std::uint32_t>((slots * c.bytes + kStepBytes - 1) / kStepBytes);
  }
  std::span<std::uint64_t> bits_of(Slab& slab, SizeClass c) noexcept;
  // The end of the last slot in use.
  std::size_t slots_to_last(Slab& slab, SizeClass c) noexcept;
  std::uint32_t slabs_max() const noexcept {
    return static_cast<std::uint32_t>(data_.size() / kSlabBytes);
  }
  // The slab is one of this class that is in lists. It may come from an extent that was freed: a
  // slab changes its class under the lock of either, the class before the state.
  static bool belongs(const Slab& slab, std::size_t size_class) noexcept {
    return slab.state.load(std::memory_order_acquire) == State::active &&
           slab.size_class.load(std::memory_order_relaxed) == size_class;
  }
  // The list that it should be in; null: none.
  static std::uint32_t* list_of(ClassLists& lists, const Slab& slab, SizeClass c) noexcept
      REQUIRES(lists.mutex);
  void link(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  void unlink(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  Extent take_slot(ClassLists& lists, std::uint32_t slab, std::uint32_t length) noexcept
      REQUIRES(lists.mutex);
  // Memory for the next slots of a `changing` slab, or for the first of a new one.
  Result<std::uint32_t> more_memory(ClassLists& lists, std::uint32_t growable,
                                    std::size_t size_class, std::uint32_t steps) noexcept
      EXCLUDES(lists.mutex);
  // No longer `changing`.
  void put_back(ClassLists& lists, std::uint32_t slab) noexcept EXCLUDES(lists.mutex);
  // A slab that what is in this slot may move to; kNone.
  std::uint32_t denser_slab(const ClassLists& lists, Extent at) noexcept REQUIRES(lists.mutex);

  // One that nobody else knows of, perhaps with memory from its last use.
  Result<std::uint32_t> new_slab(std::uint32_t steps) EXCLUDES(pool_mutex_);
  // REQUIRES: it is in no list and nothing is in it.
  void start(std::uint32_t slab, std::size_t size_class) noexcept EXCLUDES(pool_mutex_);
  void retire(std::uint32_t slab) noexcept EXCLUDES(pool_mutex_);
  // Memory behind `more` steps, if the slab has as many left, or none behind those after `keep`.
  // REQUIRES: nobody else changes this slab's steps.
  Status add_steps(std::uint32_t slab, std::uint32_t more) noexcept;
  Status keep_steps(std::uint32_t slab, std::uint32_t keep) noexcept;
  // Takes the memory behind the steps from `keep` on. REQUIRES: the caller made it `changing`.
  void shrink(ClassLists& lists, std::uint32_t slab, std::uint32_t keep) noexcept
      EXCLUDES(lists.mutex);
  void shrink_class(ClassLists& lists) noexcept EXCLUDES(lists.mutex);
  // Makes one `changing` that has steps it does not need; kNone.
  std::uint32_t find_slack(ClassLists& lists, std::uint32_t& keep) noexcept REQUIRES(lists.mutex);
  void release_empty(std::uint32_t keep_steps) noexcept EXCLUDES(pool_mutex_);
  // Active, if nobody claimed anything in it before.
  void start_claimed(std::uint32_t slab, std::size_t size_class) noexcept EXCLUDES(pool_mutex_);
  Status release_unclaimed() noexcept;

  int fd_;
  sys::Mapping data_;
  sys::Mapping slab_memory_;
  Slab* slabs_;
  std::array<ClassLists, kClasses> classes_;

  Mutex pool_mutex_;
  BitmapPool
      bitmaps_;  // chunks are handed out under pool_mutex_; a chunk's bits belong to its slab
  std::uint32_t empty_ GUARDED_BY(pool_mutex_) = kNone;
  std::uint32_t empty_steps_ GUARDED_BY(pool_mutex_) = 0;
  std::uint32_t empty_unused_ GUARDED_BY(pool_mutex_) = 0;  // the fewest since the period began
  unsigned trims_ GUARDED_BY(pool_mutex_) = 0;
  std::uint32_t absent_ GUARDED_BY(pool_mutex_) = kNone;

  std::atomic<std::uint32_t> slabs_known_{0};  // slabs below this were in use once
  std::atomic<std::uint64_t> steps_backed_{0};
  std::atomic<std::uint64_t> slot_bytes_{0};
};

}  // namespace ramfold::store
