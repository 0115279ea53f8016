// SPDX-License-Identifier: GPL-2.0-or-later
// The headers of all contents, their groups and (volatile) reference counts, and which ids are free.
//
// Threads: everything may be called concurrently unless it says "recovery".
// A content's life, by its reference count:
//   kDead    the id is free, being filled, being freed, or set aside because its header cannot be trusted
//   n > 0    live: n references; more may be taken by whoever finds it in the index (take)
//   0        nobody owns it any more: whoever turns 0 into kDead (claim_dead) frees it, exactly once
// Invariants: `where` is published last and cleared first, before its bytes can be reused, so that a
// crash never leaves two headers that name one place. An id is reused only after that.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/layout.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class HeaderTable {
 public:
  static constexpr std::uint32_t kDead = 0xffff'ffff;
  // Counts stop being shared here; the next put of these bytes makes a second content.
  static constexpr std::uint32_t kShareMax = 0x7000'0000;
  // Added to a count that was found wrong: such a content is never freed before the next recovery.
  static constexpr std::uint32_t kPinned = 0x8000'0000;

  static Result<sys::Fd> make_file(ByteCount arena, std::uint64_t store_id);
  // REQUIRES: `file` stays open while this lives.
  static Result<std::unique_ptr<HeaderTable>> open(sys::BorrowedFd file);

  const Superblock& superblock() const noexcept { return *file_.as<Superblock>(); }
  // Ids below this can be looked at.
  std::uint32_t limit() const noexcept { return limit_.load(std::memory_order_acquire); }

  // REQUIRES for all of these: 0 < id < limit().
  Where where(ContentId id) const noexcept {
    return Where(headers_[id.value].where.load(std::memory_order_acquire));
  }
  std::uint64_t hash(ContentId id) const noexcept {
    return bound_to(id, headers_[id.value].hash.load(std::memory_order_relaxed));
  }
  GroupId group(ContentId id) const noexcept {
    return GroupId{groups_[id.value].load(std::memory_order_relaxed)};
  }
  std::uint32_t count(ContentId id) const noexcept {
    return counts_[id.value].load(std::memory_order_seq_cst);
  }
  void prefetch(ContentId id) const noexcept {
    __builtin_prefetch(&headers_[id.value]);
    __builtin_prefetch(&counts_[id.value], 1);
    __builtin_prefetch(&groups_[id.value]);
  }

  // An id that nobody names, its count kDead. Errors: ENOSPC, ENOMEM.
  Result<ContentId> allocate();
  // Nobody may name it; its `where` is 0.
  void give_back(ContentId id) noexcept;
  // First reference and header, in the order that I2 wants. REQUIRES: from allocate().
  void publish(ContentId id, std::uint64_t hash, GroupId group, Where where) noexcept;
  void clear(ContentId id) noexcept { headers_[id.value].where.store(0, std::memory_order_release); }
  // True for whoever set the mark.
  bool mark_bad(ContentId id, Where seen) noexcept;

  // One more reference, if the content is live, not bad, and has this hash and group. The caller holds
  // the index lock under which it found `id`, or gives the reference back through drop.
  bool take(ContentId id, std::uint64_t hash, GroupId group) noexcept;
  void add_reference(ContentId id) noexcept {
    counts_[id.value].fetch_add(1, std::memory_order_relaxed);
  }
  enum class Dropped : std::uint8_t { remains, last, none_left };
  // none_left: there was no reference to drop; nothing changed.
  Dropped drop_reference(ContentId id) noexcept;
  bool claim_dead(ContentId id) noexcept;

  // Recovery: the count is below the truth; keep the content whatever happens.
  void pin(ContentId id) noexcept { counts_[id.value].fetch_or(kPinned, std::memory_order_seq_cst); }

  ByteCount persistent_bytes() const noexcept {
    return ByteCount{kPageSize + std::uint64_t{limit()} * (sizeof(Header) + sizeof(std::uint16_t))};
  }
  ByteCount count_bytes() const noexcept {
    return ByteCount{std::uint64_t{limit()} * sizeof(std::uint32_t)};
  }

 private:
  HeaderTable(sys::BorrowedFd fd, sys::Mapping file, sys::Mapping counts) noexcept;
  Status grow(std::uint32_t seen_limit);
  bool pop_free(ContentId& id) noexcept;

  int fd_;
  sys::Mapping file_;
  sys::Mapping count_memory_;
  ContentsLayout layout_;
  Header* headers_;
  std::atomic<std::uint16_t>* groups_;
  std::atomic<std::uint32_t>* counts_;

  std::atomic<std::uint32_t> limit_{0};
  alignas(64) std::atomic<std::uint32_t> next_{1};  // never used ids begin here
  // Free list: id in the low half, a count of changes in the high half against ABA.
  alignas(64) std::atomic<std::uint64_t> free_{0};
  Mutex grow_mutex_;
};

}  // namespace ramfold::store
