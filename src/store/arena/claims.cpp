// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery: rebuilds the maps from the extents that the headers name.
#include <unistd.h>
#include <algorithm>

#include "base/check.hpp"
#include "store/arena/arena.hpp"

namespace ramfold::store {

void Arena::start_claimed(std::uint32_t index, std::size_t size_class) noexcept {
  Slab& slab = slabs_[index];
  if (slab.state.load(std::memory_order_relaxed) != State::absent) return;
  start(index, size_class);
  slab.usable = kSizeClasses.of[size_class].slots;
  slab.state.store(State::active, std::memory_order_relaxed);
  if (index >= slabs_known_.load(std::memory_order_relaxed)) {
    slabs_known_.store(index + 1, std::memory_order_relaxed);
  }
}

Arena::Claimed Arena::claim(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  const SizeClass c = kSizeClasses.of[size_class];
  const std::uint32_t index = slab_of(at);
  const std::size_t slot = slot_of(at, c);
  if (at.offset % kSlabBytes % c.bytes != 0 || slot >= c.slots) return Claimed::conflict;
  Slab& slab = slabs_[index];
  start_claimed(index, size_class);
  if (!belongs(slab, size_class)) return Claimed::conflict;
  std::uint64_t& word = bits_of(slab, c)[slot / 64];
  const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
  if ((word & bit) != 0) return Claimed::conflict;
  word |= bit;
  ++slab.used;
  slot_bytes_.fetch_add(c.bytes, std::memory_order_relaxed);
  return Claimed::yes;
}

void Arena::freeze(Extent at) noexcept {
  start_claimed(slab_of(at), class_of(at.length));
  slabs_[slab_of(at)].state.store(State::frozen, std::memory_order_relaxed);
}

// A slab keeps the memory up to its last slot in use. A frozen slab keeps all memory that it may
// have.
Status Arena::finish_claims() {
  const std::uint32_t known = slabs_known_.load(std::memory_order_relaxed);
  for (std::uint32_t index = known; index-- > 0;) {
    Slab& slab = slabs_[index];
    const SizeClass c = class_in(slab);
    const State state = slab.state.load(std::memory_order_relaxed);
    if (state == State::absent) {
      const MutexLock lock(pool_mutex_);
      slab.next = absent_;
      absent_ = index;
      continue;
    }
    const std::uint32_t steps =
        state == State::frozen ? kSteps : steps_for(slots_to_last(slab, c), c);
    slab.steps = static_cast<std::uint8_t>(steps);
    slab.usable = usable_of(slab, c);
    steps_backed_.fetch_add(steps, std::memory_order_relaxed);
    if (state == State::frozen) continue;
    ClassLists& lists = classes_[slab.size_class.load(std::memory_order_relaxed)];
    const MutexLock lock(lists.mutex);
    link(lists, index);
  }
  return release_unclaimed();
}

// Finds the parts of the file that have memory, and punches those that are no steps of a slab, at
// most 4 MiB in a call.
Status Arena::release_unclaimed() noexcept {
  constexpr std::uint32_t kRunMax = (4u << 20) / kSlabBytes;
  std::uint64_t from = 0;
  while (from < data_.size()) {
    const off_t found = ::lseek(fd_, static_cast<off_t>(from), SEEK_DATA);
    if (found < 0) {
      if (errno == ENXIO) return {};
      return fail_errno("find the arena's memory");
    }
    const auto data = static_cast<std::uint64_t>(found);
    auto index = static_cast<std::uint32_t>(data / kSlabBytes);
    const std::uint64_t begin = std::uint64_t{index} * kSlabBytes;
    const std::uint64_t kept = begin + slabs_[index].steps * kStepBytes;
    if (data < kept) {
      from = kept;
      continue;
    }
    // On to the next slab that has steps.
    const std::uint32_t end = std::min(index + kRunMax, slabs_max());
    do ++index;
    while (index < end && slabs_[index].steps == 0);
    from = std::uint64_t{index} * kSlabBytes;
    auto punched = sys::punch(sys::BorrowedFd(fd_), ByteCount{kept}, ByteCount{from - kept});
    if (!punched) return punched;
  }
  return {};
}

}  // namespace ramfold::store
