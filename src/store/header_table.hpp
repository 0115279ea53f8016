// SPDX-License-Identifier: GPL-2.0-or-later
// The table of all contents, by id: header, group and reference (persistent); reference count and
// notes (volatile). It also hands out free ids.
//
// Threads: everything may be called concurrently unless it says "recovery".
// The life of a content, by its reference count:
//   kDead  the id is free, is being filled or freed, or is set aside because its header is damaged
//   n > 0  live, with n references; a thread that finds it in the index may take more (take)
//   0      nobody owns it; the one thread that changes 0 to kDead (claim_dead) frees it
// The daemon's own memory has a check of each `where`: a `where` that changed by itself is neither
// freed nor moved (is_intact).
// Invariants: `where` is published last. It is cleared before its bytes can be reused, so a crash
// never leaves two headers that name one place. An id is reused only after its `where` was cleared.
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
#include "store/where_check.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class HeaderTable {
 public:
  static constexpr std::uint32_t kDead = 0xffff'ffff;
  // A content with this many references is shared no more; the next put of the same bytes makes a
  // second content.
  static constexpr std::uint32_t kShareMax = 0x7000'0000;
  // Added to a count that is too low: such a content is never freed before the next recovery.
  static constexpr std::uint32_t kPinned = 0x8000'0000;

  // A contents file without contents, for an arena file of `arena` bytes.
  static Result<sys::Fd> make_file(ByteCount arena, std::uint64_t store_id);
  // Maps a contents file. EINVAL: the file is not of this version, or is damaged. REQUIRES: `file`
  // stays open while this object lives.
  static Result<std::unique_ptr<HeaderTable>> open(sys::BorrowedFd file);

  const Superblock& superblock() const noexcept { return *file_.as<Superblock>(); }
  // How often a daemon took over VMs whose contents are in this file.
  std::uint32_t take_overs() const noexcept;
  void note_take_over() noexcept;  // one thread
  // All ids that were ever used are below this. Every id below it may be looked at.
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
  // The clock of the notes, in ticks that the caller of set_now() chooses; it wraps.
  std::uint16_t now() const noexcept { return now_.load(std::memory_order_relaxed); }
  void set_now(std::uint16_t now) noexcept { now_.store(now, std::memory_order_relaxed); }
  ContentNotes& notes(ContentId id) noexcept { return notes_[id.value]; }
  const ContentNotes& notes(ContentId id) const noexcept { return notes_[id.value]; }
  // The reference of a content whose form needs one. In other forms it means nothing, and in a
  // damaged file it may be any number. Load it after `where`.
  ContentId reference(ContentId id) const noexcept {
    return ContentId{references_[id.value].load(std::memory_order_relaxed)};
  }
  void prefetch(ContentId id) const noexcept {
    __builtin_prefetch(&headers_[id.value]);
    __builtin_prefetch(&notes_[id.value], 1);
    __builtin_prefetch(&groups_[id.value]);
  }

  // An id that nobody uses; its count is kDead. Errors: ENOSPC, ENOMEM.
  Result<ContentId> allocate();
  // Frees an id. REQUIRES: nobody uses it, its `where` is 0 and its count kDead.
  void give_back(ContentId id) noexcept;
  // Sets the content's first reference, then publishes its header, `where` last. REQUIRES: `id` is
  // from allocate().
  void publish(ContentId id, std::uint64_t hash, GroupId group, Where where) noexcept;
  void clear(ContentId id) noexcept {
    headers_[id.value].where.store(0, std::memory_order_release);
  }
  // Gets memory for the references of this id and its neighbours. Errors: ENOMEM. One caller at a
  // time.
  Status back_references(ContentId id) noexcept;
  // Recovery: this content has a reference, so the memory exists since the reference was written.
  // Only counts that memory; makes no system call.
  void note_references_backed(ContentId id) noexcept { count_references(id.value / kIdChunk); }
  // REQUIRES: back_references(id) succeeded, and no reader can still use a `where` of this id that
  // needs a reference (store/readers.hpp).
  void set_reference(ContentId id, ContentId reference) noexcept {
    references_[id.value].store(reference.value, std::memory_order_relaxed);
  }
  // Changes `where` from `seen` to `next` in one step; false when it is no longer `seen`.
  bool switch_where(ContentId id, Where seen, Where next) noexcept;
  // `where` is what was published or switched to last. REQUIRES: a reference, or that the caller
  // claimed the id, so that nobody switches meanwhile.
  bool is_intact(ContentId id, Where where) const noexcept {
    return where_checks_[id.value].load(std::memory_order_relaxed) == check_of(where);
  }
  // Recovery: `where` has its place on the arena's map, and is believed from now on.
  void believe_where(ContentId id, Where where) noexcept {
    where_checks_[id.value].store(check_of(where), std::memory_order_relaxed);
  }
  // True when this call has set the mark.
  bool mark_bad(ContentId id, Where seen) noexcept;

  // Takes one more reference, if the content is live, not bad, and has this hash and group; false
  // otherwise. REQUIRES: the caller holds the index lock under which it found `id`, so that the id
  // does not get another content meanwhile.
  bool take(ContentId id, std::uint64_t hash, GroupId group) noexcept;
  // Takes one more reference to any live content that the id has now; the caller then checks which
  // content it is. False when it is not live, or has kShareMax references.
  bool take_live(ContentId id) noexcept;
  void add_reference(ContentId id) noexcept {
    notes_[id.value].count.fetch_add(1, std::memory_order_relaxed);
  }
  enum class Dropped : std::uint8_t { remains, last, none_left };
  // none_left: there was no reference to drop, and nothing was changed.
  Dropped drop_reference(ContentId id) noexcept;
  bool claim_dead(ContentId id) noexcept;

  // The count is too low: keep the content until the next recovery.
  void pin(ContentId id) noexcept {
    notes_[id.value].count.fetch_or(kPinned, std::memory_order_seq_cst);
  }

  ByteCount persistent_bytes() const noexcept {
    return ByteCount{kPageSize + std::uint64_t{limit()} * (sizeof(Header) + sizeof(std::uint16_t)) +
                     chunks_with_references_.load(std::memory_order_relaxed) * kIdChunk *
                         sizeof(std::uint32_t)};
  }
  ByteCount note_bytes() const noexcept {
    return ByteCount{std::uint64_t{limit()} * (sizeof(ContentNotes) + sizeof(std::uint8_t))};
  }

 private:
  HeaderTable(sys::BorrowedFd fd, sys::Mapping file, sys::Mapping notes, sys::Mapping checks);
  Status grow(std::uint32_t seen_limit);
  bool pop_free(ContentId& id) noexcept;
  void count_references(std::size_t chunk) noexcept;

  int fd_;
  sys::Mapping file_;
  sys::Mapping note_memory_;
  sys::Mapping check_memory_;
  ContentsLayout layout_;
  Header* headers_;
  std::atomic<std::uint16_t>* groups_;
  std::atomic<std::uint32_t>* references_;
  ContentNotes* notes_;
  std::atomic<std::uint8_t>* where_checks_;
  // By chunk of ids, for one caller at a time: chunks for which back_references() got memory in
  // this process; and chunks that chunks_with_references_ counts, whose memory may be older.
  std::vector<bool> has_references_;
  std::vector<bool> counted_references_;
  std::atomic<std::uint64_t> chunks_with_references_{0};

  std::atomic<std::uint16_t> now_{0};
  std::atomic<std::uint32_t> limit_{0};
  alignas(64) std::atomic<std::uint32_t> next_{1};  // ids from here on were never used
  // Free list: id in the low half, a count of changes in the high half against ABA.
  alignas(64) std::atomic<std::uint64_t> free_{0};
  Mutex grow_mutex_{"HeaderTable::grow"};
};

}  // namespace ramfold::store
