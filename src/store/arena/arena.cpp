// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/arena/arena.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <bit>

#include "base/check.hpp"

namespace ramfold::store {
namespace {

constexpr std::uint32_t slab_of(Extent at) noexcept {
  return static_cast<std::uint32_t>(at.offset / kSlabBytes);
}
constexpr std::size_t slot_of(Extent at, const SizeClass& c) noexcept {
  return at.offset % kSlabBytes / c.bytes;
}

}  // namespace

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
  // Guests' bytes do not belong into a core dump of this process.
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

std::size_t Arena::level_of(const Slab& slab) noexcept {
  return slab.used * kLevels / kSizeClasses.of[slab.size_class].slots;
}

std::span<std::uint64_t> Arena::bits_of(Slab& slab) noexcept {
  const std::size_t slots = kSizeClasses.of[slab.size_class].slots;
  if (slots <= kInlineSlots) return slab.bits;
  return bitmaps_.bits(slab.bitmap).first((slots + 63) / 64);
}

void Arena::link(ClassLists& lists, std::uint32_t index) noexcept {
  Slab& slab = slabs_[index];
  std::uint32_t& head = lists.partial[level_of(slab)];
  slab.previous = kNone;
  slab.next = head;
  if (head != kNone) slabs_[head].previous = index;
  head = index;
}

void Arena::unlink(ClassLists& lists, std::uint32_t index) noexcept {
  const Slab& slab = slabs_[index];
  if (slab.next != kNone) slabs_[slab.next].previous = slab.previous;
  if (slab.previous != kNone) {
    slabs_[slab.previous].next = slab.next;
  } else {
    DENSURE(lists.partial[level_of(slab)] == index);
    lists.partial[level_of(slab)] = slab.next;
  }
}

Result<Extent> Arena::allocate(std::uint32_t length) {
  DENSURE(length >= 1 && length <= kPageSize);
  const std::size_t size_class = class_of(length);
  ClassLists& lists = classes_[size_class];
  {
    const MutexLock lock(lists.mutex);
    for (std::size_t level = kLevels; level-- > 0;) {
      if (lists.partial[level] != kNone) return take_slot(lists, lists.partial[level], length);
    }
  }
  const auto fresh = new_slab();
  if (!fresh) return std::unexpected(fresh.error());
  start(*fresh, size_class);
  const MutexLock lock(lists.mutex);
  link(lists, *fresh);
  lists.free_slots += kSizeClasses.of[size_class].slots;
  return take_slot(lists, *fresh, length);
}

std::uint32_t Arena::denser_slab(const ClassLists& lists, std::uint32_t mine) const noexcept {
  const Slab& slab = slabs_[mine];
  const std::uint32_t slots = kSizeClasses.of[slab.size_class].slots;
  if (slab.used == slots) return kNone;
  const std::uint64_t elsewhere = lists.free_slots - (slots - slab.used);
  if (elsewhere < slab.used) return kNone;
  // Within a level the lists have no order; a few looks find one nearly always.
  constexpr int kLooksMax = 8;
  for (std::size_t level = kLevels; level-- > level_of(slab);) {
    std::uint32_t index = lists.partial[level];
    for (int look = 0; look < kLooksMax && index != kNone; ++look, index = slabs_[index].next) {
      if (index != mine && slabs_[index].used >= slab.used) return index;
    }
  }
  return kNone;
}

bool Arena::may_move(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  ClassLists& lists = classes_[size_class];
  const MutexLock lock(lists.mutex);
  const Slab& slab = slabs_[slab_of(at)];
  return slab.state == State::active && slab.size_class == size_class &&
         denser_slab(lists, slab_of(at)) != kNone;
}

std::optional<Extent> Arena::allocate_denser(Extent at) noexcept {
  ClassLists& lists = classes_[class_of(at.length)];
  const MutexLock lock(lists.mutex);
  if (slabs_[slab_of(at)].state != State::active) return std::nullopt;
  const std::uint32_t index = denser_slab(lists, slab_of(at));
  if (index == kNone) return std::nullopt;
  return take_slot(lists, index, at.length);
}

Extent Arena::take_slot(ClassLists& lists, std::uint32_t index, std::uint32_t length) noexcept {
  Slab& slab = slabs_[index];
  const SizeClass c = kSizeClasses.of[slab.size_class];
  const auto words = bits_of(slab);
  std::size_t word = 0;
  while (words[word] == ~std::uint64_t{0}) ++word;
  const auto bit = static_cast<std::size_t>(std::countr_one(words[word]));
  const std::size_t slot = word * 64 + bit;
  DENSURE(slot < c.slots);
  words[word] |= std::uint64_t{1} << bit;
  --lists.free_slots;
  const std::size_t level = level_of(slab);
  if (slab.used + 1u == c.slots || (slab.used + 1u) * kLevels / c.slots != level) {
    unlink(lists, index);
    ++slab.used;
    if (slab.used != c.slots) link(lists, index);
  } else {
    ++slab.used;
  }
  slot_bytes_.fetch_add(c.bytes, std::memory_order_relaxed);
  return {std::uint64_t{index} * kSlabBytes + slot * c.bytes, length};
}

void Arena::free(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  const SizeClass c = kSizeClasses.of[size_class];
  const std::uint32_t index = slab_of(at);
  ClassLists& lists = classes_[size_class];
  bool emptied = false;
  {
    const MutexLock lock(lists.mutex);
    Slab& slab = slabs_[index];
    if (slab.state == State::frozen) return;
    ENSURE(slab.state == State::active && slab.size_class == size_class);
    const std::size_t slot = slot_of(at, c);
    std::uint64_t& word = bits_of(slab)[slot / 64];
    const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
    ENSURE((word & bit) != 0);
    word &= ~bit;
    slot_bytes_.fetch_sub(c.bytes, std::memory_order_relaxed);
    if (slab.used != c.slots) unlink(lists, index);
    --slab.used;
    ++lists.free_slots;
    emptied = slab.used == 0;
    if (emptied) {
      lists.free_slots -= c.slots;
    } else {
      link(lists, index);
    }
  }
  if (!emptied) return;
  retire(index);
  bool too_many = false;
  {
    const MutexLock lock(pool_mutex_);
    too_many = empty_count_ > kEmptyMax;
  }
  if (too_many) release_empty(kEmptyMax);
}

Result<std::uint32_t> Arena::new_slab() {
  std::uint32_t index = kNone;
  {
    const MutexLock lock(pool_mutex_);
    if (empty_ != kNone) {
      index = empty_;
      empty_ = slabs_[index].next;
      --empty_count_;
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
  // Allocates and maps in one call, and says so if there is no memory where a write would be
  // killed.
  std::byte* const bytes = data_.data() + std::size_t{index} * kSlabBytes;
  if (::madvise(bytes, kSlabBytes, MADV_POPULATE_WRITE) != 0) {
    const int error = errno == EFAULT ? ENOMEM : errno;
    // What it allocated before it failed goes back; if even that fails the next user finds it
    // there.
    (void)sys::punch(sys::BorrowedFd(fd_), ByteCount{std::uint64_t{index} * kSlabBytes},
                     ByteCount{kSlabBytes});
    const MutexLock lock(pool_mutex_);
    slabs_[index].next = absent_;
    absent_ = index;
    return fail("memory for the arena", error);
  }
  slabs_backed_.fetch_add(1, std::memory_order_relaxed);
  return index;
}

void Arena::start(std::uint32_t index, std::size_t size_class) noexcept {
  Slab& slab = slabs_[index];
  slab.used = 0;
  slab.size_class = static_cast<std::uint8_t>(size_class);
  slab.state = State::active;
  slab.bits.fill(0);
  if (kSizeClasses.of[size_class].slots > kInlineSlots) {
    const MutexLock lock(pool_mutex_);
    slab.bitmap = bitmaps_.allocate();
  }
}

void Arena::retire(std::uint32_t index) noexcept {
  Slab& slab = slabs_[index];
  const MutexLock lock(pool_mutex_);
  if (kSizeClasses.of[slab.size_class].slots > kInlineSlots) bitmaps_.free(slab.bitmap);
  slab.state = State::empty;
  slab.next = empty_;
  empty_ = index;
  ++empty_count_;
}

void Arena::release_empty(std::uint32_t keep) noexcept {
  for (;;) {
    std::uint32_t index = kNone;
    {
      const MutexLock lock(pool_mutex_);
      if (empty_count_ <= keep) return;
      index = empty_;
      empty_ = slabs_[index].next;
      --empty_count_;
    }
    const auto punched = sys::punch(
        sys::BorrowedFd(fd_), ByteCount{std::uint64_t{index} * kSlabBytes}, ByteCount{kSlabBytes});
    Slab& slab = slabs_[index];
    const MutexLock lock(pool_mutex_);
    slab.state = punched ? State::absent : State::empty;
    std::uint32_t& list = punched ? absent_ : empty_;
    slab.next = list;
    list = index;
    if (!punched) {
      ++empty_count_;
      return;
    }
    slabs_backed_.fetch_sub(1, std::memory_order_relaxed);
  }
}

Arena::Claimed Arena::claim(Extent at) noexcept {
  const std::size_t size_class = class_of(at.length);
  const SizeClass c = kSizeClasses.of[size_class];
  const std::uint32_t index = slab_of(at);
  const std::size_t slot = slot_of(at, c);
  if (at.offset % kSlabBytes % c.bytes != 0 || slot >= c.slots) return Claimed::conflict;
  Slab& slab = slabs_[index];
  if (slab.state == State::absent) {
    start(index, size_class);
    slabs_backed_.fetch_add(1, std::memory_order_relaxed);
    if (index >= slabs_known_.load(std::memory_order_relaxed)) {
      slabs_known_.store(index + 1, std::memory_order_relaxed);
    }
  }
  if (slab.state != State::active || slab.size_class != size_class) return Claimed::conflict;
  std::uint64_t& word = bits_of(slab)[slot / 64];
  const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
  if ((word & bit) != 0) return Claimed::conflict;
  word |= bit;
  ++slab.used;
  slot_bytes_.fetch_add(c.bytes, std::memory_order_relaxed);
  return Claimed::yes;
}

void Arena::freeze(Extent at) noexcept {
  const std::uint32_t index = slab_of(at);
  Slab& slab = slabs_[index];
  if (slab.state == State::absent) {
    start(index, class_of(at.length));
    slabs_backed_.fetch_add(1, std::memory_order_relaxed);
    if (index >= slabs_known_.load(std::memory_order_relaxed)) {
      slabs_known_.store(index + 1, std::memory_order_relaxed);
    }
  }
  slab.state = State::frozen;
}

Status Arena::finish_claims() {
  const std::uint32_t known = slabs_known_.load(std::memory_order_relaxed);
  for (std::uint32_t index = known; index-- > 0;) {
    Slab& slab = slabs_[index];
    if (slab.state == State::absent) {
      const MutexLock lock(pool_mutex_);
      slab.next = absent_;
      absent_ = index;
    } else if (slab.state == State::active && slab.used != kSizeClasses.of[slab.size_class].slots) {
      ClassLists& lists = classes_[slab.size_class];
      const MutexLock lock(lists.mutex);
      link(lists, index);
      lists.free_slots += kSizeClasses.of[slab.size_class].slots - slab.used;
    }
  }
  return release_unclaimed();
}

// Walks what has memory behind it and punches what is in no active slab, at most 4 MiB a call.
Status Arena::release_unclaimed() noexcept {
  constexpr std::uint32_t kRunMax = (4u << 20) / kSlabBytes;
  std::uint32_t index = 0;
  while (index < slabs_max()) {
    const off_t data = ::lseek(fd_, static_cast<off_t>(index * kSlabBytes), SEEK_DATA);
    if (data < 0) {
      if (errno == ENXIO) return {};
      return fail_errno("find the arena's memory");
    }
    index = static_cast<std::uint32_t>(static_cast<std::uint64_t>(data) / kSlabBytes);
    const std::uint32_t end = std::min(index + kRunMax, slabs_max());
    const std::uint32_t first = index;
    while (index < end && slabs_[index].state == State::absent) ++index;
    if (index != first) {
      auto punched = sys::punch(sys::BorrowedFd(fd_), ByteCount{first * kSlabBytes},
                                ByteCount{(index - first) * kSlabBytes});
      if (!punched) return punched;
    }
    while (index < slabs_max() && slabs_[index].state != State::absent) ++index;
  }
  return {};
}

}  // namespace ramfold::store
