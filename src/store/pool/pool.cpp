// SPDX-License-Identifier: GPL-2.0-or-later
// The file of a pool, its memory, and recovery. The slots are in slots.cpp.
#include "store/pool/pool.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/test_points.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"

namespace ramfold::store {
namespace {

constexpr mode_t kReadByAll = 0444;

std::uint64_t checksum_of(const PoolHead& head) noexcept {
  return plain_checksum({reinterpret_cast<const std::byte*>(&head), offsetof(PoolHead, checksum)});
}

PoolHead head_of(const Pool::Identity& identity) noexcept {
  PoolHead head{.magic = kPoolMagic,
                .version = kFormatVersion,
                .group = identity.group.value,
                .store_id = identity.store_id,
                .pool_id = identity.pool_id,
                .checksum = 0};
  head.checksum = checksum_of(head);
  return head;
}

Status check(sys::BorrowedFd file, ByteCount size) {
  struct stat st{};
  if (::fstat(file.get(), &st) != 0) return fail_errno("fstat");
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (static_cast<std::uint64_t>(st.st_size) != size.value || seals < 0 ||
      (seals & kSealed) != kSealed || (st.st_mode & 0777) != kReadByAll) {
    return fail("adopt the store: a pool has a wrong size, seals or mode", EINVAL);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Pool>> Pool::create(const Identity& identity, ByteCount size) {
  auto file = sys::make_memfd("ramfold-pool", size, sys::Sealed::yes);
  if (!file) return std::unexpected(file.error());
  if (::fchmod(file->get(), kReadByAll) != 0) return fail_errno("set the mode of a pool");
  auto pool = open(std::move(*file), identity, size);
  if (!pool) return pool;
  // Through the mapping: its advice keeps large folios out, and does not bind a pwrite (D7).
  std::byte* const at = (*pool)->data_.data();
  if (::madvise(at, kPageSize, MADV_POPULATE_WRITE) != 0) {
    return fail("memory for the head of a pool", errno == EFAULT ? ENOMEM : errno);
  }
  const PoolHead head = head_of(identity);
  std::memcpy(at, &head, sizeof head);
  const MutexLock lock((*pool)->mutex_);
  (*pool)->known_ = true;
  return pool;
}

Result<std::unique_ptr<Pool>> Pool::adopt(sys::Fd file, const Identity& identity, ByteCount size) {
  if (const Status checked = check(file, size); !checked) return std::unexpected(checked.error());
  PoolHead head{};
  const PoolHead expected = head_of(identity);
  if (::pread(file.get(), &head, sizeof head, 0) != sizeof head ||
      std::memcmp(&head, &expected, sizeof head) != 0) {
    return fail("adopt the store: a pool is not that of its group", EINVAL);
  }
  return open(std::move(file), identity, size);
}

Result<std::unique_ptr<Pool>> Pool::open(sys::Fd file, const Identity& identity, ByteCount size) {
  const std::uint64_t slots = size.value / kPageSize;
  auto data = sys::Mapping::shared(file, size);
  if (!data) return std::unexpected(data.error());
  // In a large folio a punch may leave the page in place (D7).
  if (::madvise(data->data(), data->size(), MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return fail_errno("keep large folios out of a pool");
  }
  auto notes = sys::Mapping::anonymous(ByteCount{slots * sizeof(Slot)});
  if (!notes) return std::unexpected(notes.error());
  auto used = sys::Mapping::anonymous(ByteCount{(slots + 63) / 64 * sizeof(std::uint64_t)});
  if (!used) return std::unexpected(used.error());
  return std::unique_ptr<Pool>(
      new Pool(std::move(file), identity, std::move(*data), std::move(*notes), std::move(*used)));
}

Pool::Pool(sys::Fd file, const Identity& identity, sys::Mapping data, sys::Mapping slots,
           sys::Mapping used) noexcept
    : file_(std::move(file)),
      identity_(identity),
      data_(std::move(data)),
      slot_memory_(std::move(slots)),
      used_memory_(std::move(used)),
      slots_max_(static_cast<std::uint32_t>(data_.size() / kPageSize)),
      slots_(slot_memory_.as<Slot>()),
      used_(used_memory_.as<std::uint64_t>()) {}

Result<sys::Fd> Pool::read_only() const {
  const std::string path = "/proc/self/fd/" + std::to_string(file_.get());
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail_errno("open a pool for reading");
  return sys::Fd(fd);
}

Status Pool::allocate_run(std::span<PoolSlot> out) {
  if (out.size() > kRunMax) return fail("so many slots of a pool at a time", E2BIG);
  {
    const MutexLock lock(mutex_);
    if (!known_) return fail("the mappings of the pool are not known yet", EAGAIN);
  }
  if (!take_holes(out)) return fail("the pool is full", ENOSPC);
  // Gets the memory now, in one call for each run of adjacent slots: an error here, never SIGBUS.
  for (std::size_t i = 0; i < out.size();) {
    std::size_t n = 1;
    while (i + n < out.size() && out[i + n].value == out[i].value + n) ++n;
    if (::madvise(data(out[i]), n * kPageSize, MADV_POPULATE_WRITE) != 0) {
      const int error = errno == EFAULT ? ENOMEM : errno;
      bool intact = true;
      for (const PoolSlot slot : out) intact &= give_back(slot);
      if (!intact) return fail("the slots of the pool do not add up", EUCLEAN);
      return fail("memory for the pool", error);
    }
    i += n;
  }
  return {};
}

// True: the kernel says that no memory is left in these slots.
bool Pool::punch(std::uint32_t first, std::uint32_t count) const noexcept {
  const std::uint64_t begin = std::uint64_t{first} * kPageSize;
  const std::uint64_t size = std::uint64_t{count} * kPageSize;
  TEST_POINT("store.pool.punch");
  if (!sys::punch(file_, ByteCount{begin}, ByteCount{size})) return false;
  const off_t next = ::lseek(file_.get(), static_cast<off_t>(begin), SEEK_DATA);
  return next < 0 ? errno == ENXIO : static_cast<std::uint64_t>(next) >= begin + size;
}

bool Pool::punch_retired() noexcept {
  std::array<std::uint32_t, kPunchMax> batch{};
  bool intact = true;
  // Slots whose punch fails go back to the list; so no more batches than the list had at first.
  for (std::uint32_t n = top_.load(std::memory_order_relaxed) / kPunchMax + 1; n != 0; --n) {
    const std::size_t taken = take_retired(batch, intact);
    if (taken == 0) break;
    std::sort(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(taken));
    bool all = true;
    for (std::size_t i = 0; i < taken;) {
      std::uint32_t run = 1;
      while (i + run < taken && batch[i + run] == batch[i] + run) ++run;
      const bool punched = punch(batch[i], run);
      const MutexLock lock(mutex_);
      for (std::uint32_t slot = batch[i]; slot < batch[i] + run; ++slot) {
        set(slot, punched ? State::hole : State::retired);
        if (!punched) list_if_unmapped(slot);
      }
      all &= punched;
      i += run;
    }
    if (!all) break;  // later again
  }
  return intact;
}

Status Pool::mappings_known() {
  for (std::uint64_t from = kPageSize; from < data_.size();) {
    const off_t data = ::lseek(file_.get(), static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    const off_t hole = data < 0 ? -1 : ::lseek(file_.get(), data, SEEK_HOLE);
    if (hole < 0) return fail_errno("find the memory of a pool");
    TEST_POINT("recovery.store.pool");
    const MutexLock lock(mutex_);
    for (auto slot = static_cast<std::uint64_t>(data) / kPageSize;
         slot * kPageSize < static_cast<std::uint64_t>(hole); ++slot) {
      const auto index = static_cast<std::uint32_t>(slot);
      if (slots_[index].state == State::hole) retire_now(index);
    }
    from = static_cast<std::uint64_t>(hole);
  }
  const MutexLock lock(mutex_);
  // A slot that a page maps is given to nobody, even if it is a hole because something is damaged.
  const std::uint32_t top = top_.load(std::memory_order_relaxed);
  for (std::uint32_t slot = 1; slot < top; ++slot) {
    if (slots_[slot].state == State::hole && slots_[slot].mappings != 0) retire_now(slot);
  }
  known_ = true;
  return {};
}

void Pool::hand_over() noexcept {
  const MutexLock lock(mutex_);
  known_ = false;
}

ByteCount Pool::allocated() const noexcept {
  return ByteCount{(1 + backed_.load(std::memory_order_relaxed)) * kPageSize};
}
ByteCount Pool::stored() const noexcept {
  return ByteCount{homes_.load(std::memory_order_relaxed) * kPageSize};
}
ByteCount Pool::map_bytes() const noexcept {
  const std::uint64_t top = top_.load(std::memory_order_relaxed);
  return ByteCount{top * sizeof(Slot) + top / 8};
}

}  // namespace ramfold::store
