// SPDX-License-Identifier: GPL-2.0-or-later
// Gives contents cheaper forms as they stay cold, moves them together in the arena, and keeps the
// index of what others may refer to. Walks over all ids, round after round.
//
// Who refers to whom: a page that refers is lost to others as a reference, and one that is referred
// to refers no more. So a reference is not taken because it gains something, but in the walk that
// takes so little: when a content is first looked at, only one that saves three tenths of what it
// takes alone; who saw less waits for a walk that takes a tenth, or for one that takes anything. By
// then it may have dependents itself, or there is something better. Each content is looked at so
// three times at most; the last time what lies beside it is tried, too. Two more walks mix
// contexts, of what refers and of the rest. Walks take turns.
//
// A change of form, killed anywhere: new bytes in a slot that no header names -> read back, decoded
// and compared -> the reference's id beside the header, when the form needs one -> `where`, by
// compare-and-swap -> when no reader can hold the old one: its slot is free, its reference given
// up. Before the swap the old form is valid, after it the new one.
//
// Threads: one at a time (the arena, the index and readers go on meanwhile); figures() from any.
// Invariants: R1. What has dependents is given no form that needs a reference itself.
//   R2. The id of a reference changes only while `where` has needed none for as long as any reader
//       of now may have been at it.
//   R3. Whoever is worked on is referenced meanwhile, and so are the references that are tried.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/counters.hpp"
#include "store/form.hpp"
#include "store/reform/form_search.hpp"
#include "store/similarity/overlap.hpp"
#include "store/where.hpp"

namespace ramfold::store {

class Contents;
struct Parts;

struct ReformPolicy {
  bool similar = true;  // forms with a reference
  bool dense = true;    // zstd's
  bool mixed = true;    // of what the denser ones were tried for
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

class Reformer {
 public:
  // Errors: ENOMEM, EBUSY it has one. REQUIRES: `contents` outlives this.
  static Result<std::unique_ptr<Reformer>> make(Contents& contents);
  ~Reformer();

  struct Step {
    bool came_round = false;  // every id was looked at since the last time
    bool changed = false;     // something was given another form or place
  };
  // Goes on, for about so much CPU time, and not past the last id. `now_s`: seconds on a clock that
  // does not jump. Does nothing while the store recovers.
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
    Stage wanted = Stage::stored;  // stored: no form is to be tried
    Prospect prospect = Prospect::none;
    Stage tried = Stage::stored;
    bool searched = false;  // for a reference, by all that can be done with one
    bool enter = false;
    bool orphaned = false;
    std::optional<Sketch> sketch{};  // of the page, once it was needed
  };
  struct Left {  // behind a switch, until no reader can be there
    ContentId id;
    Extent bytes;
    ContentId reference = kZeroContent;
  };

  Reformer(Contents& contents, FormSearch search, std::unique_ptr<SimilarityIndex> similar);

  // True: it was worked on.
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
  // REQUIRES: a reference to visit.id, which is given up.
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
  // True: the content's reference is given up with the old bytes, later.
  bool give(const Visit& visit);
  bool write(Extent at) noexcept;
  void enter_or_leave(Visit& visit);
  bool move(ContentId id);
  void settle() noexcept;
  double cold_s(ContentId id) noexcept;

  Parts& parts_;
  std::unique_ptr<SimilarityIndex> similar_;
  FormSearch search_;
  CostModel costs_;
  ReformPolicy policy_;
  std::unordered_map<std::uint16_t, Sketcher> sketchers_;  // by group
  std::uint64_t sketchers_since_ = 0;                      // GroupTable::wiped() then
  std::unique_ptr<References> references_;
  std::unique_ptr<Overlap> overlap_;
  std::unique_ptr<std::array<PageCopy, 2>> pages_;  // the content's, and what was written of it
  std::vector<Left> left_;
  std::uint32_t next_ = 1;
  std::uint32_t moving_ = 0;  // the last that was looked at beside a walk that works
  std::size_t walk_ = 0;      // of those that take references that gain less and less, in turn
  bool changed_ = false;

  std::array<Counter, kForms> given_;
  Counter tried_, moved_, rewritten_, rounds_, saved_bytes_;
};

}  // namespace ramfold::store
