// SPDX-License-Identifier: GPL-2.0-or-later
// Slots: taking, freeing and moving. For the memory behind them see memory.cpp.
#include "store/arena/arena.hpp"

#include <sys/mman.h>
#include <bit>
#include <utility>

#include "base/check.hpp"

namespace ramfold::store {

Result<sys::Fd> Arena::make_file(ByteCount size) {
  return sys::make_memfd("ramfold-arena", size, sys::Sealed::yes);
}

Result<std::unique_ptr<Arena>> Arena::open(sys::BorrowedFd file, ByteCount size) {
  const auto actual = sys::file_size(file);
  if (!actual) return std::unexpected(actual.error());
  if (*actual != size) return fail("adopt the store: the arena file has a wrong size", EINVAL);
  auto data = sys::Mapping::shared(file, size);
  if (!data) return std::unexpected(data.error());
  const std::uint64_t slabs = size.value / kSlabBytes;
  auto map = sys::Mapping::anonymous(ByteCount{slabs * sizeof(Slab)});
  if (!map) return std::unexpected(map.error());
  // A core dump of this process must not hold bytes of guests.
  (void)::madvise(data->data(), data->size(), MADV_DONTDUMP);
  auto bitmaps = BitmapPool::make(static_cast<std::uint32_t>(slabs));
  if (!bitmaps) return std::unexpected(bitmaps.error());
  return std::unique_ptr<Arena>(
      new Arena(file, std::move(*data), std::move(*map), std::move(*bitmaps)));
}

Arena::Arena(sys::BorrowedFd fd, sys::Mapping data, sys::Mapping slabs, BitmapPool bitmaps) noexcept
    : fd_(fd.get()),
      data_(std::move(data)),
      slab_memory_(std::move(slabs)),
      slabs_(slab_memory_.as<Slab>()),
      bitmaps_(std::move(bitmaps)) {}

std::span<std::uint64_t> Arena::bits_of(Slab& slab, SizeClass c) noexcept {
  if (c.slots <= kInlineSlots) return slab.bits;
  return bitmaps_.bits(slab.bitmap).first((c.slots + 63u) / 64);
}

std::size_t Arena::slots_to_last(Slab& slab, SizeClass c) noexcept {
  const auto words = bits_of(slab, c);
  std::size_t word = (slab.usable + 63u) / 64;
  while (word != 0 && words[word - 1] == 0) --word;
  return word == 0 ? 0 : word * 64 - static_cast<std::size_t>(std::countl_zero(words[word - 1]));
}

std::uint32_t* Arena::list_of(ClassLists& lists, const Slab& slab, SizeClass c) noexcept {
  if (slab.state.load(std::memory_order_relaxed) != State::active) return nullptr;
  if (slab.used < slab.usable) return &lists.partial[level_of(slab, c)];
  return slab.usable < c.slots ? &lists.growable : nullptr;
}

void Arena::link(ClassLists& lists, std::uint32_t index) noexcept {
  Slab& slab = slabs_[index];
  std::uint32_t* const head = list_of(lists, slab, class_in(slab));
  if (head == nullptr) return;
  slab.previous = kNone;
  slab.next = *head;
  if (*head != kNone) slabs_[*head].previous = index;
  *head = index;
  lists.free_slots += static_cast<std::uint64_t>(slab.usable - slab.used);
}

void Arena::unlink(ClassLists& lists, std::uint32_t index) noexcept {
  const Slab& slab = slabs_[index];
  std::uint32_t* const head = list_of(lists, slab, class_in(slab));
  if (head == nullptr) return;
  if (slab.next != kNone) slabs_[slab.next].previous = slab.previous;
  if (slab.previous != kNone) {
    slabs_[slab.previous].next = slab.next;
  } else {
    DENSURE(*head == index);
    *head = slab.next;
  }
  lists.free_slots -= static_cast<std::uint64_t>(slab.usable - slab.used);
}

Result<Extent> Arena::allocate(std::uint32_t length) {
  DENSURE(length >= 1 && length <= kPageSize);
  const std::size_t size_class = class_of(length);
  ClassLists& lists = classes_[size_class];
  std::uint32_t growable = kNone;
  std::uint32_t steps = kStepsFirst;
  {
    const MutexLock lock(lists.mutex);
    for (std::size_t level = kLevels; level-- > 0;) {
      if (lists.partial[level] != kNone) return take_slot(lists, lists.partial[level], length);
    }
    if (std::exchange(lists.grew, true)) steps = kStepsMore;
    growable = lists.growable;
    if (growable != kNone) {
      unlink(lists, growable);
      slabs_[growable].state.store(State::changing, std::memory_order_relaxed);
    }
  }
  const auto more = more_memory(lists, growable, size_class, steps);
  if (!more) return std::unexpected(more.error());
  Slab& slab = slabs_[*more];
  const MutexLock lock(lists.mutex);
  slab.usable = usable_of(slab, kSizeClasses.of[size_class]);
  slab.state.store(State::active, std::memory_order_release);
  link(lists, *more);
  return take_slot(lists, *more, length);
}

Result<std::uint32_t> Arena::more_memory(ClassLists& lists, std::uint32_t growable,
                                         std::size_t size_class, std::uint32_t steps) noexcept {
  if (growable == kNone) {
    const auto fresh = new_slab(steps);
    if (fresh) start(*fresh, size_class);
    return fresh;
  }
  if (const Status added = add_steps(growable, steps); !added) {
    put_back(lists, growable);
    return std::unexpected(added.error());
  }
  return growable;
}

void Arena::put_back(ClassLists& lists, std::uint32_t index) noexcept {
  Slab& slab = slabs_[index];
  bool emptied = false;
  {
    const MutexLock lock(lists.mutex);
    slab.usable = usable_of(slab, class_in(slab));
    emptied = slab.used == 0;
    slab.state.store(emptied ? State::empty : State::active, std::memory_order_release);
    link(lists, index);
  }
  if (emptied) retire(index);
}

// Let `elsewhere` be the number of free slots in other slabs. Then max(0, used - elsewhere)
// contents must stay in this slab, and fit into its first slots. A content behind those slots may
// move. That helps only if the moves free a step.
std::uint32_t Arena::denser_slab(const ClassLists& lists, Extent at) noexcept {
  if (lists.free_slots == 0) return kNone;
  const std::uint32_t mine = slab_of(at);
  Slab& slab = slabs_[mine];
  const SizeClass c = class_in(slab);
  const std::size_t slot = slot_of(at, c);
  const std::uint32_t steps = steps_for(slots_to_last(slab, c), c);
  const auto would_help = [&](std::size_t remaining) {
    return slot >= remaining && steps_for(remaining, c) < steps;
  };
  const std::uint64_t elsewhere = lists.free_slots - (std::uint64_t{slab.usable} - slab.used);
  if (!would_help(slab.used - std::min<std::uint64_t>(slab.used, elsewhere))) return kNone;
  // The lists have no order within a level. A few looks nearly always find a slab that is full
  // enough.
  constexpr int kLooksMax = 8;
  for (std::size_t level = kLevels; level-- > level_of(slab, c);) {
    std::uint32_t index = lists.partial[level];
    for (int look = 0; look < kLooksMax && index != kNone; ++look, index = slabs_[index].next) {
      if (index != mine && slabs_[index].used >= slab.used) return index;
    }
  }
  return would_help(slab.used) ? mine : kNone;
}

bool Arena::may_move(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  ClassLists& lists = classes_[size_class];
  const MutexLock lock(lists.mutex);
  return belongs(slabs_[slab_of(at)], size_class) && denser_slab(lists, at) != kNone;
}

std::optional<Extent> Arena::allocate_denser(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  ClassLists& lists = classes_[size_class];
  const MutexLock lock(lists.mutex);
  if (!belongs(slabs_[slab_of(at)], size_class)) return std::nullopt;
  const std::uint32_t index = denser_slab(lists, at);
  if (index == kNone) return std::nullopt;
  return take_slot(lists, index, at.length);
}

Extent Arena::take_slot(ClassLists& lists, std::uint32_t index, std::uint32_t length) noexcept {
  Slab& slab = slabs_[index];
  const SizeClass c = class_in(slab);
  const auto words = bits_of(slab, c);
  std::size_t word = slab.first_word;
  while (words[word] == ~std::uint64_t{0}) ++word;
  slab.first_word = static_cast<std::uint8_t>(word);
  const auto bit = static_cast<std::size_t>(std::countr_one(words[word]));
  const std::size_t slot = word * 64 + bit;
  DENSURE(slot < slab.usable);
  words[word] |= std::uint64_t{1} << bit;
  if (slab.used + 1u < slab.usable && (slab.used + 1u) * kLevels / c.slots == level_of(slab, c)) {
    ++slab.used;
    --lists.free_slots;
  } else {
    unlink(lists, index);
    ++slab.used;
    link(lists, index);
  }
  slot_bytes_.fetch_add(c.bytes, std::memory_order_relaxed);
  return {std::uint64_t{index} * kSlabBytes + slot * c.bytes, length};
}

bool Arena::free(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  const SizeClass c = kSizeClasses.of[size_class];
  const std::uint32_t index = slab_of(at);
  const std::size_t slot = slot_of(at, c);
  if (at.offset % kSlabBytes != slot * c.bytes || slot >= c.slots) return false;
  ClassLists& lists = classes_[size_class];
  State state = State::active;
  std::uint32_t keep = 0;  // steps
  {
    const MutexLock lock(lists.mutex);
    Slab& slab = slabs_[index];
    state = slab.state.load(std::memory_order_relaxed);
    if (state == State::frozen) return true;
    // A slab changes its class under the lock of either.
    if ((state != State::active && state != State::changing) ||
        slab.size_class.load(std::memory_order_relaxed) != size_class) {
      return false;
    }
    std::uint64_t& word = bits_of(slab, c)[slot / 64];
    const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
    if ((word & bit) == 0) return false;
    unlink(lists, index);
    word &= ~bit;
    slab.first_word = std::min(slab.first_word, static_cast<std::uint8_t>(slot / 64));
    --slab.used;
    slot_bytes_.fetch_sub(c.bytes, std::memory_order_relaxed);
    if (state == State::changing) return true;
    if (slab.used == 0) {
      state = State::empty;
    } else if ((std::size_t{slab.usable} - slab.used) * c.bytes >= kStepsSlack * kStepBytes) {
      keep = steps_for(slots_to_last(slab, c), c);
      if (slab.steps >= keep + kStepsSlack) state = State::changing;
    }
    slab.state.store(state, std::memory_order_release);
    link(lists, index);
  }
  if (state == State::changing) {
    shrink(lists, index, keep + kStepsFirst);
    return true;
  }
  if (state != State::empty) return true;
  retire(index);
  bool too_many = false;
  {
    const MutexLock lock(pool_mutex_);
    too_many = empty_steps_ > kEmptyMax;
  }
  if (too_many) release_empty(kEmptyMax);
  return true;
}

}  // namespace ramfold::store
