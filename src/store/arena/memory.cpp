// SPDX-License-Identifier: GPL-2.0-or-later
// The memory behind slabs: getting it, and giving it back.
#include <sys/mman.h>
#include <utility>

#include "base/check.hpp"
#include "store/arena/arena.hpp"

namespace ramfold::store {

Result<std::uint32_t> Arena::new_slab(std::uint32_t steps) {
  std::uint32_t index = kNone;
  {
    const MutexLock lock(pool_mutex_);
    if (empty_ != kNone) {
      index = empty_;
      empty_ = slabs_[index].next;
      empty_steps_ -= slabs_[index].steps;
      empty_unused_ = std::min(empty_unused_, empty_steps_);
      return index;
    }
    if (absent_ != kNone) {
      index = absent_;
      absent_ = slabs_[index].next;
    } else {
      index = slabs_known_.load(std::memory_order_relaxed);
      if (index == slabs_max()) return fail("the arena is full", ENOSPC);
      slabs_known_.store(index + 1, std::memory_order_relaxed);
    }
  }
  if (const Status added = add_steps(index, steps); !added) {
    const MutexLock lock(pool_mutex_);
    slabs_[index].next = absent_;
    absent_ = index;
    return std::unexpected(added.error());
  }
  return index;
}

Status Arena::add_steps(std::uint32_t index, std::uint32_t more) noexcept {
  Slab& slab = slabs_[index];
  const std::uint64_t offset = std::uint64_t{index} * kSlabBytes + slab.steps * kStepBytes;
  more = std::min(more, kSteps - slab.steps);
  // This call allocates and maps the memory, and returns an error when there is none. A write
  // without it would be killed by SIGBUS.
  if (::madvise(data_.data() + offset, more * kStepBytes, MADV_POPULATE_WRITE) != 0) {
    const int error = errno == EFAULT ? ENOMEM : errno;
    // Give back the part that was allocated before the error. If this fails, too, the next user of
    // the slab gets that part.
    (void)sys::punch(sys::BorrowedFd(fd_), ByteCount{offset}, ByteCount{more * kStepBytes});
    return fail("memory for the arena", error);
  }
  slab.steps = static_cast<std::uint8_t>(slab.steps + more);
  steps_backed_.fetch_add(more, std::memory_order_relaxed);
  return {};
}

Status Arena::keep_steps(std::uint32_t index, std::uint32_t keep) noexcept {
  Slab& slab = slabs_[index];
  const std::uint32_t less = slab.steps - keep;
  auto punched = sys::punch(sys::BorrowedFd(fd_),
                            ByteCount{std::uint64_t{index} * kSlabBytes + keep * kStepBytes},
                            ByteCount{less * kStepBytes});
  if (!punched) return punched;
  slab.steps = static_cast<std::uint8_t>(keep);
  steps_backed_.fetch_sub(less, std::memory_order_relaxed);
  return {};
}

void Arena::start(std::uint32_t index, std::size_t size_class) noexcept {
  Slab& slab = slabs_[index];
  slab.used = 0;
  slab.usable = 0;
  slab.first_word = 0;
  slab.bits.fill(0);
  if (kSizeClasses.of[size_class].slots > kInlineSlots) {
    const MutexLock lock(pool_mutex_);
    slab.bitmap = bitmaps_.allocate();
  }
  slab.size_class.store(static_cast<std::uint8_t>(size_class), std::memory_order_relaxed);
  slab.state.store(State::changing, std::memory_order_release);
}

void Arena::retire(std::uint32_t index) noexcept {
  Slab& slab = slabs_[index];
  const MutexLock lock(pool_mutex_);
  if (class_in(slab).slots > kInlineSlots) bitmaps_.free(slab.bitmap);
  slab.next = empty_;
  empty_ = index;
  empty_steps_ += slab.steps;
}

void Arena::release_empty(std::uint32_t keep_steps) noexcept {
  for (;;) {
    std::uint32_t index = kNone;
    {
      const MutexLock lock(pool_mutex_);
      if (empty_steps_ <= keep_steps) return;
      index = empty_;
      empty_ = slabs_[index].next;
      empty_steps_ -= slabs_[index].steps;
      empty_unused_ = std::min(empty_unused_, empty_steps_);
    }
    const bool punched = this->keep_steps(index, 0).has_value();
    Slab& slab = slabs_[index];
    const MutexLock lock(pool_mutex_);
    slab.state.store(punched ? State::absent : State::empty, std::memory_order_relaxed);
    std::uint32_t& list = punched ? absent_ : empty_;
    slab.next = list;
    list = index;
    if (!punched) {
      empty_steps_ += slab.steps;
      return;
    }
  }
}

void Arena::shrink(ClassLists& lists, std::uint32_t index, std::uint32_t keep) noexcept {
  // If this fails, the slab keeps the memory.
  (void)keep_steps(index, keep);
  put_back(lists, index);
}

std::uint32_t Arena::find_slack(ClassLists& lists, std::uint32_t& keep) noexcept {
  constexpr int kLooksMax = 64;  // in each level; compaction leaves few slabs that are not full
  for (const std::uint32_t head : lists.partial) {
    std::uint32_t index = head;
    for (int look = 0; look < kLooksMax && index != kNone; ++look, index = slabs_[index].next) {
      Slab& slab = slabs_[index];
      const SizeClass c = class_in(slab);
      keep = steps_for(slots_to_last(slab, c), c);
      if (slab.steps <= keep) continue;
      unlink(lists, index);
      slab.state.store(State::changing, std::memory_order_relaxed);
      return index;
    }
  }
  return kNone;
}

void Arena::shrink_class(ClassLists& lists) noexcept {
  for (std::uint32_t i = 0; i < kShrunkMax; ++i) {
    std::uint32_t keep = 0;
    std::uint32_t index = kNone;
    {
      const MutexLock lock(lists.mutex);
      index = find_slack(lists, keep);
    }
    if (index == kNone) return;
    shrink(lists, index, keep);
  }
}

void Arena::trim() noexcept {
  bool period = false;
  std::uint32_t keep = kEmptyKept;
  {
    const MutexLock lock(pool_mutex_);
    period = ++trims_ % kTrimsAPeriod == 0;
    if (period) {
      keep = std::min(kEmptyKept, empty_steps_ - empty_unused_);
      empty_unused_ = keep;
    }
  }
  release_empty(keep);
  if (!period) return;
  for (ClassLists& lists : classes_) {
    bool grew = false;
    {
      const MutexLock lock(lists.mutex);
      grew = std::exchange(lists.grew, false);
    }
    if (!grew) shrink_class(lists);
  }
}

void Arena::trim_all() noexcept {
  for (ClassLists& lists : classes_) shrink_class(lists);
  release_empty(0);
}

}  // namespace ramfold::store
