// SPDX-License-Identifier: GPL-2.0-or-later
// The headers of all contents, their groups, the contents that patches refer to, (volatile)
// reference counts and notes, and which ids are free.
//
// Threads: everything may be called concurrently unless it says "recovery".
// A content's life, by its reference count:
//   kDead    the id is free, being filled, being freed, or set aside because its header cannot be
//   trusted n > 0    live: n references; more may be taken by whoever finds it in the index (take)
//   0        nobody owns it any more: whoever turns 0 into kDead (claim_dead) frees it, exactly
//   once
// Invariants: `where` is published last and cleared first, before its bytes can be reused, so that
// a crash never leaves two headers that name one place. An id is reused only after that.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/content_notes.hpp"
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
    return notes_[id.value].count.load(std::memory_order_seq_cst);
  }
  // The clock of notes, in ticks of the caller's choice; wraps.
  std::uint16_t now() const noexcept { return now_.load(std::memory_order_relaxed); }
  void set_now(std::uint16_t now) noexcept { now_.store(now, std::memory_order_relaxed); }
  ContentNotes& notes(ContentId id) noexcept { return notes_[id.value]; }
  const ContentNotes& notes(ContentId id) const noexcept { return notes_[id.value]; }
  // What a patch or delta refers to; means nothing in other forms, and may be anything in a damaged
  // file. Load it after `where`.
  ContentId reference(ContentId id) const noexcept {
    return ContentId{references_[id.value].load(std::memory_order_relaxed)};
  }
  void prefetch(ContentId id) const noexcept {
    __builtin_prefetch(&headers_[id.value]);
    __builtin_prefetch(&notes_[id.value], 1);
    __builtin_prefetch(&groups_[id.value]);
  }

  // An id that nobody names, its count kDead. Errors: ENOSPC, ENOMEM.
  Result<ContentId> allocate();
  // Nobody may name it; its `where` is 0.
  void give_back(ContentId id) noexcept;
  // First reference and header, in the order that I2 wants. REQUIRES: from allocate().
  void publish(ContentId id, std::uint64_t hash, GroupId group, Where where) noexcept;
  void clear(ContentId id) noexcept {
    headers_[id.value].where.store(0, std::memory_order_release);
  }
  // Memory behind the references of this id and its neighbours. Errors: ENOMEM. One caller at a
  // time.
  Status back_references(ContentId id) noexcept;
  // Recovery: this content has a reference, so that memory has been there since the reference was
  // written. Only counts it, and asks the kernel for nothing.
  void note_references_backed(ContentId id) noexcept { count_references(id.value / kIdChunk); }
  // REQUIRES: back_references(id), and that no reader can still hold a `where` of this id that
  // needs one (store/readers.hpp).
  void set_reference(ContentId id, ContentId reference) noexcept {
    references_[id.value].store(reference.value, std::memory_order_relaxed);
  }
  // The bytes are elsewhere or in another form from now on; false when `where` is no longer `seen`.
  bool switch_where(ContentId id, Where seen, Where next) noexcept;
  // True for whoever set the mark.
  bool mark_bad(ContentId id, Where seen) noexcept;

  // One more reference, if the content is live, not bad, and has this hash and group. The caller
  // holds the index lock under which it found `id`, or gives the reference back through drop.
  bool take(ContentId id, std::uint64_t hash, GroupId group) noexcept;
  // The same for an id that was found elsewhere: one more reference to whatever live content is
  // there now; the caller looks what it is. Not to one that is shared too often already.
  bool take_live(ContentId id) noexcept;
  void add_reference(ContentId id) noexcept {
    notes_[id.value].count.fetch_add(1, std::memory_order_relaxed);
  }
  enum class Dropped : std::uint8_t { remains, last, none_left };
  // none_left: there was no reference to drop; nothing changed.
  Dropped drop_reference(ContentId id) noexcept;
  bool claim_dead(ContentId id) noexcept;

  // Recovery: the count is below the truth; keep the content whatever happens.
  void pin(ContentId id) noexcept {
    notes_[id.value].count.fetch_or(kPinned, std::memory_order_seq_cst);
  }

  ByteCount persistent_bytes() const noexcept {
    return ByteCount{kPageSize + std::uint64_t{limit()} * (sizeof(Header) + sizeof(std::uint16_t)) +
                     chunks_with_references_.load(std::memory_order_relaxed) * kIdChunk *
                         sizeof(std::uint32_t)};
  }
  ByteCount note_bytes() const noexcept {
    return ByteCount{std::uint64_t{limit()} * sizeof(ContentNotes)};
  }

 private:
  HeaderTable(sys::BorrowedFd fd, sys::Mapping file, sys::Mapping notes);
  Status grow(std::uint32_t seen_limit);
  bool pop_free(ContentId& id) noexcept;
  void count_references(std::size_t chunk) noexcept;

  int fd_;
  sys::Mapping file_;
  sys::Mapping note_memory_;
  ContentsLayout layout_;
  Header* headers_;
  std::atomic<std::uint16_t>* groups_;
  std::atomic<std::uint32_t>* references_;
  ContentNotes* notes_;
  // By chunk of ids, for one caller at a time: what back_references() has got in this life, and
  // what is counted below, which may have been got before.
  std::vector<bool> has_references_;
  std::vector<bool> counted_references_;
  std::atomic<std::uint64_t> chunks_with_references_{0};

  std::atomic<std::uint16_t> now_{0};
  std::atomic<std::uint32_t> limit_{0};
  alignas(64) std::atomic<std::uint32_t> next_{1};  // never used ids begin here
  // Free list: id in the low half, a count of changes in the high half against ABA.
  alignas(64) std::atomic<std::uint64_t> free_{0};
  Mutex grow_mutex_;
};

}  // namespace ramfold::store
