// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/reform/reformer.hpp"

#include <algorithm>
#include <cstring>

#include "base/clock.hpp"
#include "store/contents.hpp"
#include "store/parts.hpp"

namespace ramfold::store {
namespace {

constexpr std::uint32_t kClockEvery = 64;   // ids between two reads of the CPU clock
constexpr std::uint16_t kColdMax = 0x8000;  // seconds; the notes' clock wraps at twice that
// The gain that walks 1 to 3 of the header ask for.
constexpr std::array kGainMin{0.3, 0.1, 0.0};
// Walks 4 and 5 of the header.
constexpr std::size_t kMixWithReference = kGainMin.size();
constexpr std::size_t kMixAlone = kMixWithReference + 1;
constexpr std::size_t kWalks = kMixAlone + 1;

struct Attempt {
  double cpu_ns = 0;
  double gain = 0;
};

// A step comes "soon" if it pays when the content has been cold for kSoon times as long as now.
constexpr double kSoon = 4;
// For every content that is worked on, this many others are looked at for a move.
constexpr std::uint32_t kMovesPerWork = 16;

// The content waits for a later walk, which may take the reference that was seen.
bool waits(Prospect prospect) noexcept {
  return prospect == Prospect::fair || prospect == Prospect::weak;
}

// The stage that a content of this form has reached at least. A restart forgets the notes, but not
// the form.
Stage stage_of(Form form) noexcept {
  if (form == Form::mix || form == Form::mix_delta) return Stage::mixed;
  if (form == Form::zstd || form == Form::delta) return Stage::dense;
  return form == Form::patch ? Stage::patched : Stage::stored;
}

}  // namespace

Result<std::unique_ptr<Reformer>> Reformer::make(Contents& contents) {
  auto search = FormSearch::make();
  if (!search) return std::unexpected(search.error());
  auto similar = SimilarityIndex::make(contents.parts_->headers->superblock().contents_max);
  if (!similar) return std::unexpected(similar.error());
  if (contents.parts_->has_reformer.exchange(true)) {
    return fail("the store has a reformer already", EBUSY);
  }
  return std::unique_ptr<Reformer>(new Reformer(contents, std::move(*search), std::move(*similar)));
}

Reformer::Reformer(Contents& contents, FormSearch search, std::unique_ptr<SimilarityIndex> similar)
    : parts_(*contents.parts_),
      similar_(std::move(similar)),
      search_(std::move(search)),
      references_(std::make_unique<References>()),
      overlap_(std::make_unique<Overlap>()),
      pages_(std::make_unique<std::array<PageCopy, 2>>()) {}

Reformer::~Reformer() { parts_.has_reformer.store(false); }

Reformer::Step Reformer::step(const ReformPolicy& policy, std::uint64_t now_s,
                              std::uint64_t cpu_ns) {
  if (parts_.phase.load(std::memory_order_acquire) != Phase::ready) return {};
  policy_ = policy;
  costs_.set_economy(policy.economy);
  changed_ = false;
  forget_sketchers();
  parts_.headers->set_now(static_cast<std::uint16_t>(now_s));
  const std::uint64_t end = thread_cpu_ns() + cpu_ns;
  const std::uint32_t limit = parts_.headers->limit();
  bool worked = false;
  for (std::uint32_t n = 0; next_ < limit; ++next_, ++n) {
    if ((worked || n % kClockEvery == 0) && thread_cpu_ns() >= end) break;
    worked = visit(ContentId{next_});
    if (worked) compact(limit);
  }
  {
    const MutexLock lock(parts_.moving.mutex);
    parts_.settle();
  }
  parts_.similarity_bytes.set(similar_->memory().value);
  if (next_ < limit) return {false, changed_};
  next_ = 1;
  walk_ = (walk_ + 1) % kWalks;
  rounds_.add();
  return {true, changed_};
}

double Reformer::cold_s(ContentId id) noexcept {
  const std::uint16_t now = parts_.headers->now();
  ContentNotes& notes = parts_.headers->notes(id);
  const auto cold = static_cast<std::uint16_t>(now - notes.read_at());
  if (cold > kColdMax) notes.note_read(static_cast<std::uint16_t>(now - kColdMax));
  // Read within the present second: half a second is the best guess.
  return cold == 0 ? 0.5 : std::min(cold, kColdMax);
}

// The note of the last search; `none`, too, for a content that has a reference or must not get one.
Prospect Reformer::prospect(const Visit& visit) const noexcept {
  if (!policy_.similar || visit.where.has_reference() || visit.dependents != 0)
    return Prospect::none;
  return parts_.headers->notes(visit.id).prospect();
}

Stage Reformer::wanted_stage(const Visit& visit) const noexcept {
  const bool again = waits(visit.prospect) && walk_ >= static_cast<std::size_t>(visit.prospect) &&
                     walk_ < kGainMin.size();
  for (const Stage stage : {Stage::mixed, Stage::densest, Stage::dense, Stage::patched}) {
    if (stage <= visit.reached && !(again && stage == last_of_search())) continue;
    if (stage == Stage::mixed && !may_mix(visit)) continue;
    // A patch has no denser level. And a content that will be mixed soon needs no higher level
    // before.
    if (stage == Stage::densest &&
        ((visit.reached == Stage::dense && stage_of(visit.where.form()) != Stage::dense) ||
         pays(Stage::mixed, visit, kSoon * visit.cold_s))) {
      continue;
    }
    if (pays(stage, visit, visit.cold_s)) return stage;
  }
  return Stage::stored;
}

// The stage is allowed, and would pay for a content that was cold for `cold_s`.
bool Reformer::pays(Stage stage, const Visit& visit, double cold_s) const noexcept {
  return allows(stage) && costs_.pays(stage, shape_of(visit.where), visit.where.extent().length,
                                      cold_s, visit.dependents);
}

bool Reformer::allows(Stage stage) const noexcept {
  if (stage == Stage::mixed) return policy_.mixed;
  return stage == Stage::patched ? policy_.similar : policy_.dense;
}

// Mixed contexts take the most time, so they come last: in walks of their own, so that no search
// waits for them, and only when the content waits for no reference and zstd was tried. Contents
// with a reference come before the others. Those may be references, and take long to decode once
// they are mixed.
bool Reformer::may_mix(const Visit& visit) const noexcept {
  const std::size_t its_walk = visit.where.has_reference() ? kMixWithReference : kMixAlone;
  return walk_ == its_walk && !waits(visit.prospect) && visit.reached >= Stage::dense;
}

// The gain that the present walk asks of a new reference. A content that has a reference keeps it,
// whatever it gains.
double Reformer::gain_min() const noexcept {
  return walk_ < kGainMin.size() ? kGainMin[walk_] : kGainMin.front();
}

bool Reformer::is_last_search() const noexcept { return walk_ + 1 == kGainMin.size(); }

// Only dependents need the content's reference any more.
bool Reformer::is_orphaned(ContentId id) const noexcept {
  const ContentId reference = parts_.headers->reference(id);
  if (!parts_.knows(reference)) return false;
  const std::uint32_t dependents = parts_.headers->notes(reference).dependents();
  return dependents != 0 && dependents != ContentNotes::kDependentsMax &&
         parts_.headers->count(reference) == dependents;
}

bool Reformer::visit(ContentId id) {
  HeaderTable& headers = *parts_.headers;
  const std::uint32_t count = headers.count(id);
  if (count == 0 || count >= HeaderTable::kShareMax) return false;
  // No reference is held yet, so all that is read here may change; hold() reads `where` again.
  Visit visit{.id = id, .where = headers.where(id)};
  if (!parts_.readable(visit.where)) return false;
  const ContentNotes& notes = headers.notes(id);
  visit.cold_s = cold_s(id);
  visit.dependents = notes.dependents();
  const Stage implied = stage_of(visit.where.form());
  visit.reached = std::max(notes.stage(), implied);
  visit.prospect = prospect(visit);
  visit.wanted = wanted_stage(visit);
  visit.enter = policy_.similar && !visit.where.has_reference() && !notes.entered() &&
                (implied > notes.stage() || visit.dependents != 0);
  // A content whose rewriting does not pay is not tried in every round.
  constexpr std::uint64_t kOrphanRounds = 16;
  visit.orphaned = visit.where.has_reference() && is_orphaned(id) &&
                   (id.value + rounds_.get()) % kOrphanRounds == 0;
  if (visit.wanted == Stage::stored && !visit.enter && !visit.orphaned) {
    move_forward(id);
    return false;
  }
  const MutexLock lock(parts_.moving.mutex);
  const auto held = hold(id);
  if (!held) return false;
  visit.where = *held;
  visit.group = headers.group(id);
  // Its memory is needed anyway while guests map it.
  if (visit.where.place() == Place::pool && parts_.is_mapped(visit.group, visit.where)) {
    parts_.drop_uncounted(id);
    return false;
  }
  work(visit);
  if (parts_.moving.left.size() == Moving::kLeftMax) parts_.settle();
  return true;
}

// Takes a reference to the content and returns its `where`. From then on only this thread changes
// `where` (R3), except for the mark `bad`. Empty: the content is not live or not readable.
std::optional<Where> Reformer::hold(ContentId id) noexcept {
  HeaderTable& headers = *parts_.headers;
  if (!headers.take_live(id)) return std::nullopt;
  const Where where = headers.where(id);
  if (parts_.readable(where) && parts_.groups->hasher(headers.group(id)) != nullptr) return where;
  parts_.drop_uncounted(id);
  return std::nullopt;
}

// A walk that works on contents takes long, and leaves many slabs half empty. So other contents are
// moved meanwhile.
void Reformer::compact(std::uint32_t limit) {
  for (std::uint32_t n = 0; n < kMovesPerWork; ++n) {
    moving_ = moving_ + 1 < limit ? moving_ + 1 : 1;
    move_forward(ContentId{moving_});
  }
}

void Reformer::move_forward(ContentId id) {
  const Where where = parts_.headers->where(id);
  if (!policy_.compact || !parts_.readable(where) || where.place() != Place::arena ||
      !parts_.arena->may_move(where.extent())) {
    return;
  }
  const MutexLock lock(parts_.moving.mutex);
  if (!hold(id)) return;
  if (!move(id)) return parts_.drop_uncounted(id);
  if (parts_.moving.left.size() == Moving::kLeftMax) parts_.settle();
}

void Reformer::work(Visit visit) {
  if (!read(visit)) return parts_.drop_uncounted(visit.id);
  find_references(visit);
  search(visit);
  const bool given = search_.improved() && give(visit);
  const bool refers = given && needs_reference(search_.best().shape.form);
  if (!visit.where.has_reference()) {
    put_down_references(refers ? references_->all[search_.best().reference].id : kZeroContent);
  }
  enter_or_leave(visit);
  ContentNotes& notes = parts_.headers->notes(visit.id);
  notes.set_stage(std::max(visit.tried, visit.reached));
  notes.set_prospect(next_prospect(visit));
  if (!given) parts_.drop_uncounted(visit.id);
}

// Reads the page as a fault would do; adds the reference that the content has to the candidates.
// False: the content is damaged, and was condemned.
bool Reformer::read(const Visit& visit) {
  References& found = *references_;
  found.count = found.alike = 0;
  const bool refers = visit.where.has_reference();
  const bool known = refers && add_reference(parts_.headers->reference(visit.id), visit.group);
  found.alike = found.count;
  std::byte* const out = pages_->front().bytes.data();
  const std::uint64_t begin = monotonic_ns();
  const std::byte* const bytes = parts_.data(visit.group, visit.where);
  // Parts::decode() for a content whose reference was not added: it decodes with a damaged one,
  // too, and the checksum decides.
  const bool decoded =
      refers && !known
          ? parts_.decode(visit.id, visit.where, out)
          : bytes != nullptr && decode(shape_of(visit.where), {bytes, visit.where.extent().length},
                                       known ? found.all[0].page.bytes.data() : nullptr, out);
  if (decoded && parts_.matches_checksum(visit.id, out)) {
    if (known || !refers)
      costs_.learn_decode(shape_of(visit.where), static_cast<double>(monotonic_ns() - begin));
    return true;
  }
  parts_.condemn(visit.id, visit.where);
  return false;
}

// The cost of the present form. For an orphaned content, this includes its share of the memory of
// its reference.
double Reformer::cost_now_ns(const Visit& visit) const noexcept {
  const auto with = [&](std::optional<Shape> reference) {
    return costs_.cost_ns(shape_of(visit.where), reference, visit.where.extent().length,
                          visit.cold_s, visit.dependents);
  };
  if (!visit.where.has_reference()) return with(std::nullopt);
  const ContentId reference = parts_.headers->reference(visit.id);
  const Where at = parts_.headers->where(reference);
  if (!visit.orphaned) return with(shape_of(at));
  return with(shape_of(at)) +
         costs_.memory_ns(at.extent().length, visit.cold_s) /
             std::max<std::uint32_t>(1, parts_.headers->notes(reference).dependents());
}

void Reformer::search(Visit& visit) {
  const FormSearch::Found now{
      .shape = shape_of(visit.where),
      .length = visit.where.extent().length,
      .reference = visit.where.has_reference() ? 0 : FormSearch::kNoReference,
      .cost_ns = cost_now_ns(visit)};
  search_.begin(pages_->front(), *references_, costs_, visit.cold_s, visit.dependents, now,
                visit.prospect == Prospect::unknown ? kGainMin.front() : gain_min());
  if (visit.orphaned) {
    search_.try_raw();
    search_.try_lz4();
    if (policy_.dense) search_.try_alone();
    return;
  }
  std::array<Attempt, kStages> attempts;
  const auto attempt = [&](Stage stage, auto&& tries) {
    const std::uint64_t begin = thread_cpu_ns();
    const std::uint32_t before = search_.shortest();
    tries();
    Attempt& made = attempts[static_cast<std::size_t>(stage)];
    made.cpu_ns += static_cast<double>(thread_cpu_ns() - begin);
    made.gain += before - search_.shortest();
    visit.tried = std::max(visit.tried, stage);
  };
  const auto wants = [&](Stage stage) { return visit.reached < stage && stage <= visit.wanted; };
  const bool finds = references_->count != 0 && !visit.where.has_reference();
  // Forms without a reference come first: a reference is compared with the shortest of them.
  if (wants(Stage::dense)) attempt(Stage::dense, [&] { search_.try_alone(); });
  if (wants(Stage::patched) || finds) attempt(Stage::patched, [&] { search_.try_patches(); });
  if (wants(Stage::dense) || (finds && visit.wanted >= Stage::dense))
    attempt(Stage::dense, [&] { search_.try_deltas(); });
  visit.searched = visit.prospect != Prospect::none && visit.wanted >= last_of_search();
  const bool found = finds && search_.may_refer();
  if (wants(Stage::mixed)) attempt(Stage::mixed, [&] { search_.try_mix(); });
  const bool mixed = stage_of(search_.best().shape.form) == Stage::mixed;
  if (!mixed && (wants(Stage::densest) || (found && visit.reached == Stage::densest)))
    attempt(Stage::densest, [&] { search_.try_densest(); });
  for (std::size_t i = 0; i < kStages; ++i) {
    if (attempts[i].cpu_ns == 0) continue;
    costs_.learn_attempt(static_cast<Stage>(i), now.shape.form, now.length, attempts[i].cpu_ns,
                         attempts[i].gain);
    tried_.add();
  }
}

// The note to keep about this search.
Prospect Reformer::next_prospect(const Visit& visit) const noexcept {
  if (!visit.searched) return parts_.headers->notes(visit.id).prospect();
  if (search_.best().reference != FormSearch::kNoReference) return Prospect::unknown;
  // The last walk would take any reference. It took none, so there is none, or it costs more than
  // it gains.
  if (visit.prospect != Prospect::unknown && is_last_search()) return Prospect::none;
  // Never `none` after the first search: contents that come later were not there to be found.
  return search_.reference_gain() >= kGainMin[1] ? Prospect::fair : Prospect::weak;
}

ReformFigures Reformer::figures() const noexcept {
  ReformFigures f;
  for (std::size_t i = 0; i < kForms; ++i) f.given[i] = given_[i].get();
  f.tried = tried_.get();
  f.moved = moved_.get();
  f.rewritten = rewritten_.get();
  f.rounds = rounds_.get();
  f.saved_bytes = saved_bytes_.get();
  f.costs = costs_.figures();
  return f;
}

}  // namespace ramfold::store
