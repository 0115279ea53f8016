// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/header_table.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <algorithm>
#include <limits>

#include "base/check.hpp"
#include "base/test_points.hpp"
#include "store/hash.hpp"

namespace ramfold::store {
namespace {

static_assert(sizeof(std::atomic<std::uint16_t>) == 2);
static_assert(sizeof(std::atomic<std::uint8_t>) == 1 && kIdChunk % kPageSize == 0);

std::uint64_t checksum_of(const Superblock& block) noexcept {
  return plain_checksum(
      {reinterpret_cast<const std::byte*>(&block), offsetof(Superblock, checksum)});
}

// Gets memory for [offset, offset + size) now, so that a lack of memory is an error. Later, at a
// write to the mapping, it would be SIGBUS.
Status back_with_memory(int fd, std::uint64_t offset, std::uint64_t size) noexcept {
  if (::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) {
    return fail_errno("memory for the store's headers");
  }
  return {};
}

}  // namespace

Result<sys::Fd> HeaderTable::make_file(ByteCount arena, std::uint64_t store_id) {
  const std::uint32_t contents_max = contents_max_for(arena);
  auto file = sys::make_memfd("ramfold-contents", ByteCount{ContentsLayout(contents_max).end},
                              sys::Sealed::yes);
  if (!file) return file;
  auto mapping = sys::Mapping::shared(*file, ByteCount{kPageSize});
  if (!mapping) return std::unexpected(mapping.error());
  auto& block = *mapping->as<Superblock>();
  block.magic = kContentsMagic;
  block.version = kFormatVersion;
  block.contents_max = contents_max;
  block.arena_bytes = arena.value;
  block.store_id = store_id;
  block.checksum = checksum_of(block);
  block.id_limit.store(self_checked(0), std::memory_order_release);
  return file;
}

Result<std::unique_ptr<HeaderTable>> HeaderTable::open(sys::BorrowedFd file) {
  const auto size = sys::file_size(file);
  if (!size) return std::unexpected(size.error());
  if (size->value < kPageSize)
    return fail("adopt the store: the contents file is too short", EINVAL);
  auto first = sys::Mapping::shared(file, ByteCount{kPageSize});
  if (!first) return std::unexpected(first.error());
  const auto& block = *first->as<Superblock>();
  if (block.magic != kContentsMagic || !is_known_format(block.version) ||
      block.checksum != checksum_of(block)) {
    return fail("adopt the store: the contents file is not of this version", EINVAL);
  }
  const std::uint64_t limit_bits = block.id_limit.load(std::memory_order_acquire);
  const auto limit = static_cast<std::uint32_t>(limit_bits);
  if (!is_self_checked(limit_bits) || block.arena_bytes == 0 ||
      block.arena_bytes > kArenaMax.value || block.arena_bytes % kSlabBytes != 0 ||
      block.contents_max != contents_max_for(ByteCount{block.arena_bytes}) ||
      size->value != ContentsLayout(block.contents_max).end || limit > block.contents_max ||
      limit % kIdChunk != 0) {
    return fail("adopt the store: the contents file is damaged", EINVAL);
  }
  auto whole = sys::Mapping::shared(file, *size);
  if (!whole) return std::unexpected(whole.error());
  auto notes =
      sys::Mapping::anonymous(ByteCount{std::uint64_t{block.contents_max} * sizeof(ContentNotes)});
  if (!notes) return std::unexpected(notes.error());
  auto checks = sys::Mapping::anonymous(ByteCount{block.contents_max});
  if (!checks) return std::unexpected(checks.error());
  return std::unique_ptr<HeaderTable>(
      new HeaderTable(file, std::move(*whole), std::move(*notes), std::move(*checks)));
}

HeaderTable::HeaderTable(sys::BorrowedFd fd, sys::Mapping file, sys::Mapping notes,
                         sys::Mapping checks)
    : fd_(fd.get()),
      file_(std::move(file)),
      note_memory_(std::move(notes)),
      check_memory_(std::move(checks)),
      layout_(superblock().contents_max),
      headers_(reinterpret_cast<Header*>(file_.data() + layout_.headers)),
      groups_(reinterpret_cast<std::atomic<std::uint16_t>*>(file_.data() + layout_.groups)),
      references_(reinterpret_cast<std::atomic<std::uint32_t>*>(file_.data() + layout_.references)),
      notes_(note_memory_.as<ContentNotes>()),
      where_checks_(check_memory_.as<std::atomic<std::uint8_t>>()),
      has_references_(superblock().contents_max / kIdChunk),
      counted_references_(has_references_.size()) {
  const auto limit =
      static_cast<std::uint32_t>(superblock().id_limit.load(std::memory_order_acquire));
  limit_.store(limit, std::memory_order_release);
  if (limit != 0) next_.store(limit, std::memory_order_relaxed);
}

std::uint32_t HeaderTable::take_overs() const noexcept {
  const std::uint64_t bits = superblock().take_overs.load(std::memory_order_relaxed);
  return is_self_checked(bits) ? static_cast<std::uint32_t>(bits) : 0;
}

void HeaderTable::note_take_over() noexcept {
  const std::uint64_t more = std::uint64_t{take_overs()} + 1;
  const auto most = std::numeric_limits<std::uint32_t>::max();
  file_.as<Superblock>()->take_overs.store(
      self_checked(static_cast<std::uint32_t>(std::min<std::uint64_t>(more, most))),
      std::memory_order_relaxed);
}

Result<ContentId> HeaderTable::allocate() {
  for (;;) {
    ContentId id;
    if (pop_free(id)) return id;
    const std::uint32_t limit = this->limit();
    std::uint32_t next = next_.load(std::memory_order_relaxed);
    while (next < limit) {
      if (next_.compare_exchange_weak(next, next + 1, std::memory_order_relaxed)) {
        notes_[next].count.store(kDead, std::memory_order_relaxed);
        return ContentId{next};
      }
    }
    if (auto grown = grow(limit); !grown) return std::unexpected(grown.error());
  }
}

Status HeaderTable::grow(std::uint32_t seen_limit) {
  const MutexLock lock(grow_mutex_);
  const std::uint32_t limit = this->limit();
  if (limit != seen_limit) return {};
  if (limit >= superblock().contents_max) return fail("the store has no free ids", ENOSPC);
  auto backed = back_with_memory(fd_, layout_.headers + std::uint64_t{limit} * sizeof(Header),
                                 kIdChunk * sizeof(Header));
  if (!backed) return backed;
  backed = back_with_memory(fd_, layout_.groups + std::uint64_t{limit} * sizeof(std::uint16_t),
                            kIdChunk * sizeof(std::uint16_t));
  if (!backed) return backed;
  if (::madvise(&notes_[limit], kIdChunk * sizeof(ContentNotes), MADV_POPULATE_WRITE) != 0 ||
      ::madvise(&where_checks_[limit], kIdChunk, MADV_POPULATE_WRITE) != 0) {
    return fail_errno("memory for the store's reference counts");
  }
  file_.as<Superblock>()->id_limit.store(self_checked(limit + kIdChunk), std::memory_order_release);
  limit_.store(limit + kIdChunk, std::memory_order_release);
  return {};
}

bool HeaderTable::pop_free(ContentId& id) noexcept {
  std::uint64_t head = free_.load(std::memory_order_acquire);
  for (;;) {
    const auto first = static_cast<std::uint32_t>(head);
    if (first == 0) return false;
    // Another thread may have taken `first` and overwritten the link. Then the count of changes
    // differs, and the exchange fails.
    const auto link =
        static_cast<std::uint32_t>(headers_[first].hash.load(std::memory_order_relaxed));
    const std::uint64_t next = (((head >> 32) + 1) << 32) | link;
    if (free_.compare_exchange_weak(head, next, std::memory_order_acq_rel,
                                    std::memory_order_acquire)) {
      id = ContentId{first};
      DENSURE(count(id) == kDead && !where(id).valid());
      return true;
    }
  }
}

void HeaderTable::give_back(ContentId id) noexcept {
  DENSURE(count(id) == kDead);
  std::uint64_t head = free_.load(std::memory_order_relaxed);
  std::uint64_t next = 0;
  do {
    headers_[id.value].hash.store(head & 0xffff'ffff, std::memory_order_relaxed);
    next = (((head >> 32) + 1) << 32) | id.value;
  } while (!free_.compare_exchange_weak(head, next, std::memory_order_release,
                                        std::memory_order_relaxed));
}

void HeaderTable::publish(ContentId id, std::uint64_t hash, GroupId group, Where where) noexcept {
  Header& header = headers_[id.value];
  header.hash.store(bound_to(id, hash), std::memory_order_relaxed);
  groups_[id.value].store(group.value, std::memory_order_relaxed);
  notes_[id.value].begin(now());
  notes_[id.value].count.store(1, std::memory_order_relaxed);
  believe_where(id, where);
  TEST_POINT("store.publish");
  header.where.store(where.bits(), std::memory_order_release);
}

bool HeaderTable::mark_bad(ContentId id, Where seen) noexcept {
  std::uint64_t bits = seen.bits();
  return headers_[id.value].where.compare_exchange_strong(bits, bits | Where::kBad,
                                                          std::memory_order_acq_rel);
}

bool HeaderTable::take(ContentId id, std::uint64_t hash, GroupId group) noexcept {
  const auto matches = [&] {
    const Where w = where(id);
    return w.valid() && !w.bad() && this->hash(id) == hash && this->group(id) == group;
  };
  return matches() && take_live(id);
}

bool HeaderTable::take_live(ContentId id) noexcept {
  auto& count = notes_[id.value].count;
  std::uint32_t seen = count.load(std::memory_order_relaxed);
  do {
    if (seen == 0 || seen >= kShareMax) return false;  // kDead and pinned ones included
  } while (!count.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                        std::memory_order_relaxed));
  return true;
}

Status HeaderTable::back_references(ContentId id) noexcept {
  const std::size_t chunk = id.value / kIdChunk;
  if (has_references_[chunk]) return {};
  auto backed = back_with_memory(fd_, layout_.references + chunk * kIdChunk * sizeof(std::uint32_t),
                                 kIdChunk * sizeof(std::uint32_t));
  if (!backed) return backed;
  has_references_[chunk] = true;
  count_references(chunk);
  return {};
}

void HeaderTable::count_references(std::size_t chunk) noexcept {
  if (counted_references_[chunk]) return;
  counted_references_[chunk] = true;
  chunks_with_references_.fetch_add(1, std::memory_order_relaxed);
}

bool HeaderTable::switch_where(ContentId id, Where seen, Where next) noexcept {
  std::uint64_t bits = seen.bits();
  const bool switched = headers_[id.value].where.compare_exchange_strong(bits, next.bits(),
                                                                         std::memory_order_acq_rel);
  if (switched) believe_where(id, next);
  return switched;
}

HeaderTable::Dropped HeaderTable::drop_reference(ContentId id) noexcept {
  auto& count = notes_[id.value].count;
  std::uint32_t seen = count.load(std::memory_order_relaxed);
  do {
    if (seen == 0 || seen == kDead) return Dropped::none_left;
    if (seen == kPinned) return Dropped::remains;
  } while (!count.compare_exchange_weak(seen, seen - 1, std::memory_order_seq_cst,
                                        std::memory_order_relaxed));
  return seen == 1 ? Dropped::last : Dropped::remains;
}

bool HeaderTable::claim_dead(ContentId id) noexcept {
  std::uint32_t none = 0;
  return notes_[id.value].count.compare_exchange_strong(none, kDead, std::memory_order_seq_cst);
}

}  // namespace ramfold::store
