// SPDX-License-Identifier: GPL-2.0-or-later
// Gives contents cheaper forms while they stay cold, moves them together in the arena, and keeps
// the index of possible references (store/similarity). Walks over all ids, round after round.
//
// Choice of references. A content that has a reference cannot be a reference, and a content that
// has dependents cannot get one. So a small gain does not justify a reference at once. Walks differ
// in the gain that they ask for, as a share of the bytes that the content takes without a
// reference:
//   walk 1    3/10; the first search of any content asks for this
//   walk 2    1/10
//   walk 3    any gain; neighbours of the content are tried, too
//   walk 4    no search; mixed contexts of contents with a reference
//   walk 5    no search; mixed contexts of the others
// The walks take turns. A content without a good reference waits for the walk whose demand is met;
// by then it may have dependents, or there is a better reference. There are at most three searches
// for a content.
//
// A change of form. A process that is killed between any two steps leaves a valid content: the old
// form before step 4, the new form after it.
//   1. Write the new bytes into a slot that no header names.
//   2. Read them back, decode them, and compare them with the page.
//   3. If the form needs a reference, write its id beside the header.
//   4. Change `where` by compare-and-swap.
//   5. When no reader can use the old `where`: free its slot, and give up its reference.
//
// Threads: one at a time (other threads use the store meanwhile); figures() from any.
// Invariants:
//   R1. A content with dependents gets no form that needs a reference.
//   R2. The id of a content's reference changes only when no reader can still use a `where` that
//       needs the old one. So between two references a content has a form without one.
//   R3. The reformer holds a reference count on the content it works on, and on every candidate.
//   R4. It holds Moving::mutex meanwhile (store/parts.hpp), so no other thread moves a content.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "base/counters.hpp"
#include "base/metric.hpp"
#include "store/form.hpp"
#include "store/reform/form_search.hpp"
#include "store/similarity/overlap.hpp"
#include "store/where.hpp"

namespace ramfold::store {

class Contents;
struct Parts;

struct ReformPolicy {
  bool similar = true;  // forms with a reference
  bool dense = true;    // zstd and delta
  bool mixed = true;    // mixed contexts, for contents that zstd was tried for
  bool compact = true;
  Economy economy;
};

struct ReformFigures {
  std::array<std::uint64_t, kForms> given{};  // forms given, by kind
  std::uint64_t tried = 0;
  std::uint64_t moved = 0;      // to denser slabs
  std::uint64_t rewritten = 0;  // because nobody else needed their reference any more
  std::uint64_t rounds = 0;
  std::uint64_t saved_bytes = 0;  // of slots, over all changes
  CostModel::Figures costs;
};
template <typename V, ConstOr<ReformFigures> S>
constexpr void visit(V& v, S& s) {
  v.elsewhere(s.given, s.costs);
  v(counter("reform_attempts", "Contents that were tried in another form."), s.tried);
  v(counter("reform_moved", "Contents that were moved to denser slabs."), s.moved);
  v(counter("reform_rewritten",
            "Contents that were rewritten because only patches still needed their reference."),
    s.rewritten);
  v(counter("reform_rounds", "Times that every content had been looked at."), s.rounds);
  v(counter("reform_saved_bytes", "Bytes of slots that new forms and places have saved."),
    s.saved_bytes);
}

class Reformer {
 public:
  // Errors: ENOMEM; EBUSY the store has a reformer. REQUIRES: `contents` outlives the reformer.
  static Result<std::unique_ptr<Reformer>> make(Contents& contents);
  ~Reformer();

  struct Step {
    bool came_round = false;  // this step has ended a walk over all ids
    bool changed = false;     // a content got another form or place
  };
  // Continues the walk for about cpu_ns of CPU time, at most to its end. `now_s`: seconds of a
  // monotonic clock. Does nothing while the store recovers.
  Step step(const ReformPolicy& policy, std::uint64_t now_s, std::uint64_t cpu_ns);
  ReformFigures figures() const noexcept;

 private:
  struct Visit {
    ContentId id;
    GroupId group{};
    Where where;
    double cold_s = 0;
    std::uint32_t dependents = 0;
    Stage reached = Stage::stored;
    Stage wanted = Stage::stored;  // stored: try no form
    Prospect prospect = Prospect::none;
    Stage tried = Stage::stored;
    bool searched = false;           // for a reference, up to last_of_search()
    bool enter = false;              // into the similarity index
    bool orphaned = false;           // only dependents need its reference: try to do without it
    std::optional<Sketch> sketch{};  // of the page, made when it is first needed
  };
  Reformer(Contents& contents, FormSearch search, std::unique_ptr<SimilarityIndex> similar);

  // True: the content was worked on.
  bool visit(ContentId id);
  std::optional<Where> hold(ContentId id) noexcept;
  void compact(std::uint32_t limit);
  void move_forward(ContentId id);
  Prospect prospect(const Visit& visit) const noexcept;
  bool is_last_search() const noexcept;
  double gain_min() const noexcept;
  Prospect next_prospect(const Visit& visit) const noexcept;
  Stage last_of_search() const noexcept { return policy_.dense ? Stage::dense : Stage::patched; }
  Stage wanted_stage(const Visit& visit) const noexcept;
  bool allows(Stage stage) const noexcept;
  bool pays(Stage stage, const Visit& visit, double cold_s) const noexcept;
  bool may_mix(const Visit& visit) const noexcept;
  bool is_orphaned(ContentId id) const noexcept;
  // REQUIRES: the caller holds a reference to visit.id; work() gives it up.
  void work(Visit visit);
  bool read(const Visit& visit);
  void forget_sketchers() noexcept;
  const Sketch& sketch_of(Visit& visit);
  bool add_reference(ContentId id, GroupId group);
  void find_references(Visit& visit);
  bool take_reference(ContentId id, const Visit& visit);
  void find_beside(const Visit& visit);
  void put_down_references(ContentId but) noexcept;
  double cost_now_ns(const Visit& visit) const noexcept;
  void search(Visit& visit);
  // Gives the content the best form that was found. True: it was changed, and Parts::settle() will
  // give up the reference to visit.id. REQUIRES of give() and move(): the caller holds
  // Moving::mutex since before hold().
  bool give(const Visit& visit);
  bool write(Extent at) noexcept;
  void enter_or_leave(Visit& visit);
  bool move(ContentId id);
  double cold_s(ContentId id) noexcept;

  Parts& parts_;
  std::unique_ptr<SimilarityIndex> similar_;
  FormSearch search_;
  CostModel costs_;
  ReformPolicy policy_;
  std::unordered_map<std::uint16_t, Sketcher> sketchers_;  // by group
  std::uint64_t sketchers_since_ = 0;                      // GroupTable::wiped() at that time
  std::unique_ptr<References> references_;
  std::unique_ptr<Overlap> overlap_;
  std::unique_ptr<std::array<PageCopy, 2>> pages_;  // the page, and the page read back
  std::uint32_t next_ = 1;
  std::uint32_t moving_ = 0;  // the last id that compact() has looked at
  std::size_t walk_ = 0;      // number of the present walk, from 0
  bool changed_ = false;

  std::array<Counter, kForms> given_;
  Counter tried_, moved_, rewritten_, rounds_, saved_bytes_;
};

}  // namespace ramfold::store
