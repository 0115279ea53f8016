// SPDX-License-Identifier: GPL-2.0-or-later
// Allocates places for encoded contents. One sparse memory file is cut into slabs of 128 KiB, and
// each slab into slots of one size class. A slab has memory behind its first steps (4 KiB each), as
// many as its slots have needed so far. A new content gets the first free slot of one of the
// fullest slabs of its class. So other slabs, and the ends of slabs, become empty; punching them
// gives their memory back to the host. A content may move when all contents of its slab, or of the
// slab's last steps, would fit into free slots of fuller slabs, or into free slots further to the
// front of the slab. The maps of used slots and of steps are volatile; recovery rebuilds them from
// the headers.
//
// Threads: allocate, free and trim from any thread; data() takes no lock. Functions marked
// "recovery" are for one thread, while no other thread allocates or frees.
// Locks: one for each class, then the pool's; never held over a system call. A thread that changes
// the memory of a slab makes the slab `changing`: meanwhile other threads free slots in it, but
// take none.
// Invariants: a slab belongs to one class while it has contents. A slot has memory before it is
// written to (MADV_POPULATE_WRITE). So a lack of memory on the host is an error of allocate(),
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
  // A slab gets memory, and gives it back, in steps of this size.
  static constexpr std::size_t kStepBytes = 4096;
  // Memory that was unused during this many calls of trim() is given back. The housekeeping thread
  // makes as many in two seconds.
  static constexpr unsigned kTrimsAPeriod = 8;

  // An empty arena file. REQUIRES: `size` is a multiple of kSlabBytes.
  static Result<sys::Fd> make_file(ByteCount size);
  // Maps an arena file. EINVAL: the file does not have `size` bytes. REQUIRES: `file` stays open
  // while this object lives.
  static Result<std::unique_ptr<Arena>> open(sys::BorrowedFd file, ByteCount size);

  ByteCount size() const noexcept { return ByteCount{data_.size()}; }
  std::byte* data(Extent at) const noexcept { return data_.data() + at.offset; }
  // Prefetches all lines of these bytes at once; a decoder would load one after the other.
  static void prefetch(const std::byte* at, std::uint32_t length) noexcept {
    for (std::uint32_t i = 0; i < length; i += kCacheLine) __builtin_prefetch(at + i);
  }

  // A slot for `length` bytes (1 to 4096). Errors: ENOSPC the arena is full; ENOMEM the host has no
  // memory left.
  Result<Extent> allocate(std::uint32_t length);
  // True when allocate_denser() would probably find a slot. `at` may have been freed already.
  bool may_move(Extent at) noexcept;
  // A slot of the same class, in a slab that is at least as full or further to the front of the
  // same slab. Only if such moves could free steps of the slab of `at`, and the content in `at`
  // must move for that; empty otherwise. Takes no new memory. REQUIRES: `at` is in use.
  std::optional<Extent> allocate_denser(Extent at) noexcept;
  // False: no slot of that length is in use there, and nothing has changed. REQUIRES: the extent
  // lies in the arena and in one slab; no header names it any more.
  [[nodiscard]] bool free(Extent at) noexcept;
  // Gives unused memory back to the host: steps of empty slabs beyond kEmptyKept, and steps that
  // were unused for kTrimsAPeriod calls. For a housekeeping thread, a few times a second.
  void trim() noexcept;
  // Gives back all memory of empty slabs, and the unused ends of up to kShrunkMax slabs of each
  // class.
  void trim_all() noexcept;

  // Recovery: a header names this extent. conflict: the extent is no free slot beside the extents
  // that were claimed before; see freeze().
  enum class Claimed : std::uint8_t { yes, conflict };
  Claimed claim(Extent at) noexcept;
  // Recovery: this extent of a live content does not fit the slab's map. Nothing in this slab is
  // allocated or freed until the next recovery.
  void freeze(Extent at) noexcept;
  // Recovery, once after the last claim(): gives the memory back that no claim needs.
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
  static constexpr std::size_t kLevels = 4;  // of fullness, each with a list
  static constexpr std::uint32_t kSteps = kSlabBytes / kStepBytes;
  // Steps that a slab gets at a time: when its class grows for the first time in a period of trims;
  // and when the class grows again in that period.
  static constexpr std::uint32_t kStepsFirst = 4;
  static constexpr std::uint32_t kStepsMore = 16;
  // With this many unused steps at the end of a slab, free() gives back all but kStepsFirst of
  // them. More than a slab gets at a time, so that a slab that has just grown keeps its steps.
  static constexpr std::uint32_t kStepsSlack = kStepsMore + kStepsFirst;
  static constexpr std::uint32_t kEmptyKept = 256;  // steps, 1 MiB: reused without a system call
  static constexpr std::uint32_t kEmptyMax = 1024;  // steps, 4 MiB: beyond, free() gives back
  static constexpr std::uint32_t kShrunkMax = 32;   // slabs of a class in one trim
  static constexpr std::size_t kInlineSlots = 320;

  // changing: in no list, because one thread is giving the slab memory or taking memory from it.
  enum class State : std::uint8_t { absent, empty, active, changing, frozen };
  struct Slab {
    std::uint32_t previous;
    std::uint32_t next;
    std::uint32_t bitmap;  // chunk of the pool when the class has more than kInlineSlots slots
    std::uint16_t used;
    std::uint16_t usable;      // slots [0, usable) have memory; only these may be in use
    std::atomic<State> state;  // with size_class: see belongs()
    std::atomic<std::uint8_t> size_class;
    std::uint8_t steps;       // steps [0, steps) have memory
    std::uint8_t first_word;  // the first word of the bitmap that may have a free slot
    std::array<std::uint64_t, kInlineSlots / 64> bits;
  };
  static_assert(sizeof(Slab) == 64);

  struct alignas(64) ClassLists {
    Mutex mutex{"Arena::ClassLists"};
    // Slabs with free slots among the usable ones, by fullness.
    std::array<std::uint32_t, kLevels> partial GUARDED_BY(mutex) = {kNone, kNone, kNone, kNone};
    // Slabs without a free usable slot that can get more memory.
    std::uint32_t growable GUARDED_BY(mutex) = kNone;
    bool grew GUARDED_BY(mutex) = false;             // since this period of trims began
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
  // How many slots have memory behind all of their bytes.
  static std::uint16_t usable_of(const Slab& slab, SizeClass c) noexcept {
    return static_cast<std::uint16_t>(
        std::min<std::size_t>(c.slots, slab.steps * kStepBytes / c.bytes));
  }
  // How many steps these slots need.
  static std::uint32_t steps_for(std::size_t slots, SizeClass c) noexcept {
    return static_cast<std::uint32_t>((slots * c.bytes + kStepBytes - 1) / kStepBytes);
  }
  std::span<std::uint64_t> bits_of(Slab& slab, SizeClass c) noexcept;
  // 1 + the number of the last slot in use; 0 when none is.
  std::size_t slots_to_last(Slab& slab, SizeClass c) noexcept;
  std::uint32_t slabs_max() const noexcept {
    return static_cast<std::uint32_t>(data_.size() / kSlabBytes);
  }
  // The slab is active, and of this class. The caller may have the slab from an extent that was
  // freed meanwhile, so the slab may have another class by now. A slab changes its class only while
  // it is neither active nor changing; start() stores the class before the state.
  static bool belongs(const Slab& slab, std::size_t size_class) noexcept {
    return slab.state.load(std::memory_order_acquire) == State::active &&
           slab.size_class.load(std::memory_order_relaxed) == size_class;
  }
  // The list that the slab belongs to; nullptr: none.
  static std::uint32_t* list_of(ClassLists& lists, const Slab& slab, SizeClass c) noexcept
      REQUIRES(lists.mutex);
  void link(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  void unlink(ClassLists& lists, std::uint32_t slab) noexcept REQUIRES(lists.mutex);
  Extent take_slot(ClassLists& lists, std::uint32_t slab, std::uint32_t length) noexcept
      REQUIRES(lists.mutex);
  // Gets memory for more slots of `growable`, which is `changing`; or, when that is kNone, for a
  // new slab. Returns the slab, which is `changing`.
  Result<std::uint32_t> more_memory(ClassLists& lists, std::uint32_t growable,
                                    std::size_t size_class, std::uint32_t steps) noexcept
      EXCLUDES(lists.mutex);
  // Ends `changing`: the slab goes back to its list, or is retired if it is empty.
  void put_back(ClassLists& lists, std::uint32_t slab) noexcept EXCLUDES(lists.mutex);
  // A slab that the content of this slot may move to; kNone when there is none.
  std::uint32_t denser_slab(const ClassLists& lists, Extent at) noexcept REQUIRES(lists.mutex);

  // A slab that is in no list; it may still have memory from its last use.
  Result<std::uint32_t> new_slab(std::uint32_t steps) EXCLUDES(pool_mutex_);
  // REQUIRES: the slab is in no list, and is empty.
  void start(std::uint32_t slab, std::size_t size_class) noexcept EXCLUDES(pool_mutex_);
  void retire(std::uint32_t slab) noexcept EXCLUDES(pool_mutex_);
  // add_steps() gets memory for up to `more` further steps. keep_steps() gives back the memory of
  // all steps but the first `keep`. REQUIRES: no other thread changes this slab's steps.
  Status add_steps(std::uint32_t slab, std::uint32_t more) noexcept;
  Status keep_steps(std::uint32_t slab, std::uint32_t keep) noexcept;
  // Gives back the memory of all steps but the first `keep`, then calls put_back(). REQUIRES: the
  // caller has made the slab `changing`.
  void shrink(ClassLists& lists, std::uint32_t slab, std::uint32_t keep) noexcept
      EXCLUDES(lists.mutex);
  void shrink_class(ClassLists& lists) noexcept EXCLUDES(lists.mutex);
  // Finds a slab with unused steps at its end and makes it `changing`; kNone when there is none.
  std::uint32_t find_slack(ClassLists& lists, std::uint32_t& keep) noexcept REQUIRES(lists.mutex);
  void release_empty(std::uint32_t keep_steps) noexcept EXCLUDES(pool_mutex_);
  // Recovery: makes the slab active, if it has no claim yet.
  void start_claimed(std::uint32_t slab, std::size_t size_class) noexcept EXCLUDES(pool_mutex_);
  Status release_unclaimed() noexcept;

  int fd_;
  sys::Mapping data_;
  sys::Mapping slab_memory_;
  Slab* slabs_;
  std::array<ClassLists, kClasses> classes_;

  Mutex pool_mutex_{"Arena::pool"};
  // Chunks are handed out under pool_mutex_. The bits of a chunk belong to its slab.
  BitmapPool bitmaps_;
  std::uint32_t empty_ GUARDED_BY(pool_mutex_) = kNone;
  std::uint32_t empty_steps_ GUARDED_BY(pool_mutex_) = 0;
  std::uint32_t empty_unused_ GUARDED_BY(pool_mutex_) = 0;  // least empty_steps_ in this period
  unsigned trims_ GUARDED_BY(pool_mutex_) = 0;
  std::uint32_t absent_ GUARDED_BY(pool_mutex_) = kNone;

  std::atomic<std::uint32_t> slabs_known_{0};  // slabs below this were in use once
  std::atomic<std::uint64_t> steps_backed_{0};
  std::atomic<std::uint64_t> slot_bytes_{0};
};

}  // namespace ramfold::store
