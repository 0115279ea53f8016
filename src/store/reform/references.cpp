// SPDX-License-Identifier: GPL-2.0-or-later
// Finds references for a content: contents that resemble it, and in the last search its neighbours.
// And keeps the similarity index: it has contents without a reference.
#include <cstring>
#include <utility>

#include "store/parts.hpp"
#include "store/reform/reformer.hpp"

namespace ramfold::store {
namespace {

// Neighbours have ids within kBesideReach; at most kBesideLooks of them are compared.
constexpr std::uint32_t kBesideReach = 32;
constexpr unsigned kBesideLooks = 8;
// A neighbour that cannot get a reference anyway counts as if it had a tenth more in common.
constexpr unsigned kReferredBonus = 10;

}  // namespace

// Adds a private copy of the content's page to the candidates. False: it cannot be a reference, or
// is damaged. REQUIRES: the caller holds a reference to `id`; there is room.
bool Reformer::add_reference(ContentId id, GroupId group) {
  References& found = *references_;
  const std::byte* const page = parts_.reference_page(id, group);
  if (page == nullptr || !parts_.matches_checksum(id, page)) return false;
  References::One& one = found.all[found.count++];
  std::memcpy(one.page.bytes.data(), page, kPageSize);
  one.shape = shape_of(parts_.headers->where(id));
  const ContentNotes& notes = parts_.headers->notes(id);
  one.free = notes.dependents() == 0 && notes.prospect() != Prospect::none;
  one.id = id;
  return true;
}

// Forgets all sketchers when a group was wiped: its id may be another group's now.
void Reformer::forget_sketchers() noexcept {
  const std::uint64_t wiped = parts_.groups->wiped();
  if (std::exchange(sketchers_since_, wiped) != wiped) sketchers_.clear();
}

// The sketch of the page. It takes as long as decoding zstd, so it is made only when needed: not
// for a content that keeps its reference or its place in the index. REQUIRES: read().
const Sketch& Reformer::sketch_of(Visit& visit) {
  if (!visit.sketch) {
    forget_sketchers();
    const std::uint64_t seed = parts_.groups->hasher(visit.group)->seed();
    const auto [known, _] = sketchers_.try_emplace(visit.group.value, seed);
    visit.sketch = known->second(pages_->front());
  }
  return *visit.sketch;
}

// Fills the candidates for the content. REQUIRES: read().
void Reformer::find_references(Visit& visit) {
  References& found = *references_;
  // R2: an orphaned content first gets a form without a reference.
  if (visit.orphaned) found.count = found.alike = 0;
  if (visit.orphaned || visit.where.has_reference()) return;
  if (visit.wanted == Stage::stored || visit.prospect == Prospect::none) return;  // R1
  const SimilarityIndex::Candidates candidates = similar_->find(sketch_of(visit));
  for (const ContentId id : candidates.all()) {
    if (found.count == References::kAlikeMax) break;
    take_reference(id, visit);
  }
  found.alike = found.count;
  if (is_last_search() && visit.prospect != Prospect::unknown) find_beside(visit);
}

bool Reformer::take_reference(ContentId id, const Visit& visit) {
  if (id == visit.id || !parts_.knows(id) || !parts_.headers->take_live(id)) return false;
  if (add_reference(id, visit.group)) return true;
  parts_.drop_uncounted(id);
  return false;
}

// Ids are given out in the order in which pages are folded. So, while no ids were reused, contents
// with near ids were near in the guest: in the same file or heap.
void Reformer::find_beside(const Visit& visit) {
  References& found = *references_;
  unsigned looks = 0;
  const auto look = [&](ContentId id) {
    if (looks == kBesideLooks || found.has(id) || !take_reference(id, visit)) return;
    if (looks++ == 0) overlap_->begin(pages_->front());
    References::One& last = found.all[found.count - 1];
    last.overlap = overlap_->with(last.page);
    if (!last.free) last.overlap += last.overlap / kReferredBonus;
    if (found.count - found.alike <= References::kBesideMax) return;
    // One candidate too many: leave out the one with the least overlap.
    References::One* worst = &last;
    for (std::size_t i = found.alike; i + 1 < found.count; ++i) {
      if (found.all[i].overlap < worst->overlap) worst = &found.all[i];
    }
    parts_.drop_uncounted(worst->id);
    if (worst != &last) *worst = last;
    --found.count;
  };
  for (std::uint32_t n = 1; n <= kBesideReach; ++n) {
    look(ContentId{visit.id.value + n});
    if (n < visit.id.value) look(ContentId{visit.id.value - n});
  }
}

// Gives up the references to all candidates except `but`, which has become the content's reference
// (kZeroContent: none has). REQUIRES: give() is over.
void Reformer::put_down_references(ContentId but) noexcept {
  for (std::size_t i = 0; i < references_->count; ++i) {
    const ContentId id = references_->all[i].id;
    if (id != but) parts_.drop_uncounted(id);
  }
}

void Reformer::enter_or_leave(Visit& visit) {
  ContentNotes& notes = parts_.headers->notes(visit.id);
  const bool refers = parts_.headers->where(visit.id).has_reference();
  if (refers && notes.entered()) {
    similar_->remove(sketch_of(visit), visit.id);
    notes.set_entered(false);
  } else if (policy_.similar && !refers && !notes.entered()) {
    similar_->insert(sketch_of(visit), visit.id);
    notes.set_entered(true);
  }
}

}  // namespace ramfold::store
