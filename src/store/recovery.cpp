// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery: rebuilds all derived data from the headers while faults are served.
//
// Meanwhile get() reads and may mark a content bad, and drop() counts down. Recovery itself changes
// a header only to clear it, when nobody counted the content, or to mark it bad. So a process that
// is killed at any point leaves a store that can be recovered again. Nothing of a group with words
// that are not counted is cleared (Holds), so it can be recovered also then.
#include "base/check.hpp"
#include "base/test_points.hpp"
#include "store/contents.hpp"
#include "store/parts.hpp"

namespace ramfold::store {
namespace {

constexpr std::uint32_t kAhead = 32;

class Rebuild {
 public:
  explicit Rebuild(Parts& parts) noexcept : parts_(parts) {}

  // Before the first pass: holds all ids of the groups that have words which are not counted.
  void hold(ContentId id) noexcept;
  // First pass, over all ids: a live content with a reference keeps the reference alive.
  void count_reference(ContentId id) noexcept;
  // Second pass, over all ids.
  void one(ContentId id);

 private:
  bool forget(ContentId id) noexcept;
  bool claim_place(ContentId id, Where where) noexcept;
  void freeze_place(ContentId id, Where where) noexcept;
  bool claim(ContentId id, Where where) noexcept;

  Parts& parts_;
};

void Rebuild::hold(ContentId id) noexcept {
  if (!parts_.holds.covers(parts_.headers->group(id))) return;
  parts_.holds.add(id);
  if (parts_.headers->where(id).bits() != 0) parts_.headers->add_reference(id);
}

// REQUIRES: nobody counted the content. Clears its header and frees its id, unless the id is held
// (it has no content then). False: a drop without a counted reference has pinned the content
// meanwhile, or is found here.
bool Rebuild::forget(ContentId id) noexcept {
  // A held content has the reference of the hold. Without it, somebody has dropped a reference that
  // was never counted.
  if (parts_.holds.has(id) && parts_.headers->where(id).bits() != 0) {
    parts_.note_underflow(parts_.headers->group(id), id);
    return false;
  }
  if (!parts_.headers->claim_dead(id)) return false;
  TEST_POINT("recovery.store.sweep");
  parts_.headers->clear(id);
  if (!parts_.holds.has(id)) parts_.headers->give_back(id);
  return true;
}

bool Rebuild::claim_place(ContentId id, Where where) noexcept {
  if (where.place() == Place::arena) {
    return parts_.arena->claim(where.extent()) == Arena::Claimed::yes;
  }
  Pool* const pool = parts_.pools.find(parts_.headers->group(id));
  return pool != nullptr && pool->claim(where.slot(), id);
}

void Rebuild::freeze_place(ContentId id, Where where) noexcept {
  if (where.place() == Place::arena) return parts_.arena->freeze(where.extent());
  Pool* const pool = parts_.pools.find(parts_.headers->group(id));
  if (pool != nullptr) pool->freeze(where.slot());
}

// Marks the content's place on the map of the arena or pool as used. If the place does not fit
// beside the others, one of two headers is damaged. The bytes tell whether it is this one; if not,
// the whole slab, or the slot of the pool, is frozen.
bool Rebuild::claim(ContentId id, Where where) noexcept {
  if (claim_place(id, where)) return true;
  PageCopy page;
  if (parts_.decode(id, where, page.bytes.data()) &&
      parts_.matches_checksum(id, page.bytes.data())) {
    freeze_place(id, where);
    return true;
  }
  parts_.condemn(id, where);
  return false;
}

// A damaged header may name any reference. Only a reference that may be referred to is counted. If
// it may not, the content is marked bad, so its reference, which was not counted, is never given
// up.
void Rebuild::count_reference(ContentId id) noexcept {
  HeaderTable& headers = *parts_.headers;
  const Where where = headers.where(id);
  if (!parts_.readable(where) || !where.has_reference()) return;
  if (headers.count(id) == 0 && forget(id)) return;
  const ContentId reference = headers.reference(id);
  if (!parts_.may_refer(reference, headers.group(id)) ||
      headers.count(reference) == HeaderTable::kDead) {
    headers.mark_bad(id, where);
    return;
  }
  headers.note_references_backed(id);
  headers.add_reference(reference);
  headers.notes(reference).add_dependent();
}

void Rebuild::one(ContentId id) {
  HeaderTable& headers = *parts_.headers;
  const Where where = headers.where(id);
  if (headers.count(id) == HeaderTable::kDead) return;
  // A content with a reference was live in the first pass, so it holds that reference. If its count
  // has fallen to 0 since, the sweep frees it, which gives up the reference.
  const bool holds_reference = parts_.readable(where) && where.has_reference();
  if (headers.count(id) == 0 && !holds_reference && forget(id)) return;
  // Live, but its header is damaged: readers see `corrupt`, and the id is never given out again.
  const GroupId group = headers.group(id);
  if (!where.sound(parts_.arena->size())) {
    parts_.corrupt.add();
    return;
  }
  // A damaged content keeps its group until the next restart, too.
  if (!parts_.groups->add_use(group)) return parts_.condemn(id, where);
  if (where.bad()) {
    parts_.corrupt.add();
    if (!claim_place(id, where)) freeze_place(id, where);
    return;
  }
  if (!claim(id, where)) return;
  headers.believe_where(id, where);
  parts_.index->insert(headers.hash(id), group, id, Index::OnEqual::insert_anyway);
  parts_.usage.add_content(group, where.form(), where.extent().length);
}

}  // namespace

std::uint32_t Contents::take_overs() const noexcept { return parts_->headers->take_overs(); }
void Contents::note_take_over() noexcept { parts_->headers->note_take_over(); }

bool Contents::recovering() const noexcept {
  return parts_->phase.load(std::memory_order_acquire) != Phase::ready;
}

Booked Contents::count(GroupId group, ContentId id) noexcept {
  if (id == kZeroContent) return Booked::done;
  Parts& parts = *parts_;
  // After the recovery an id that is not held may have another content than the word means.
  const bool late = parts.phase.load(std::memory_order_acquire) != Phase::recovering;
  const bool held = parts.holds.has(id) && parts.headers->count(id) != HeaderTable::kDead;
  if (!parts.belongs(id, group) || (late && !held)) {
    parts.miscounted.add();
    return Booked::refused;
  }
  parts.account(parts.headers->where(id), group, 1);
  parts.headers->add_reference(id);
  return Booked::done;
}

bool Contents::has_uncounted(GroupId group) const noexcept { return parts_->holds.covers(group); }
bool Contents::has_uncounted() const noexcept { return parts_->holds.any(); }

void Contents::narrow(const Uncounted& still) {
  Parts& parts = *parts_;
  ENSURE(parts.phase.load() == Phase::ready);
  HeaderTable& headers = *parts.headers;
  for (std::uint32_t i = parts.holds.limit(); i-- > 1;) {  // as finish_recovery(): lowest ids first
    const ContentId id{i};
    if (!parts.holds.has(id) || still.covers(headers.group(id))) continue;
    // No content moves meanwhile: who counts the pages of a content does not count the hold.
    const MutexLock lock(parts.moving.mutex);
    // As hold() has asked. A damaged header may have neither, and words that were counted.
    const bool has_reference = headers.where(id).bits() != 0;
    const bool is_free = headers.count(id) == HeaderTable::kDead;
    parts.holds.remove(id);
    TEST_POINT("recovery.store.narrow");
    if (has_reference) {
      parts.drop_uncounted(id);
    } else if (is_free) {
      headers.give_back(id);
    }
  }
  parts.groups->end_recovery(still);
  parts.holds.narrow(still);
}

Status Contents::finish_recovery(const Uncounted& uncounted) {
  Parts& parts = *parts_;
  ENSURE(parts.phase.load() == Phase::recovering);
  HeaderTable& headers = *parts.headers;
  const std::uint32_t limit = headers.limit();
  Rebuild rebuild(parts);
  if (!parts.has_counted_references) {
    if (auto begun = parts.holds.begin(uncounted, limit); !begun) return begun;
    parts.has_counted_references = true;
    for (std::uint32_t id = 1; id < limit && !uncounted.none(); ++id) rebuild.hold(ContentId{id});
    for (std::uint32_t id = 1; id < limit; ++id) {
      TEST_POINT("recovery.store.references");
      rebuild.count_reference(ContentId{id});
    }
  }
  std::uint64_t live = 0;
  for (std::uint32_t id = 1; id < limit; ++id) live += headers.count(ContentId{id}) != 0;
  if (auto reserved = parts.index->reserve(live); !reserved) return reserved;
  // From the highest id down, so that the free list begins with the lowest ids, and the headers in
  // use stay dense.
  for (std::uint32_t id = limit; id-- > 1;) {
    if (id > kAhead) parts.index->prefetch_buckets(headers.hash(ContentId{id - kAhead}));
    TEST_POINT("recovery.store.index");
    rebuild.one(ContentId{id});
  }
  // If memory cannot be given back, recovery ends all the same: new contents use those slabs later.
  (void)parts.arena->finish_claims();
  parts.phase.store(Phase::sweeping, std::memory_order_seq_cst);
  // From here on drop() frees. This pass frees the contents whose counts fell to 0 before.
  for (std::uint32_t id = limit; id-- > 1;) {
    if (headers.count(ContentId{id}) == 0) parts.release_if_unused(ContentId{id});
  }
  parts.phase.store(Phase::ready, std::memory_order_release);
  parts.groups->end_recovery(uncounted);
  return {};
}

}  // namespace ramfold::store
