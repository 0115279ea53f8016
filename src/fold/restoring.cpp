// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/restoring.hpp"

#include "base/check.hpp"

namespace ramfold::fold {

using guest::Owner;
using guest::Tag;
using sys::Outcome;

namespace {

constexpr int kRegisterTriesMax = 8;

}  // namespace

RestoringRun::RestoringRun(guest::Vm& vm, const sys::VmaQuery& vmas, guest::QuietProof& proof,
                           SharedPool& pool, PageRun run) noexcept
    : AgentRun(vm, vmas, pool, run) {
  ENSURE(run.count <= kAgentRunPages);
  owned_ = own_mapped(words_).pages;
  if (!look(owned_)) return;
  Mask guarded = 0;
  for_each_run(that_map(owned_, Maps::pool), [&](unsigned first, unsigned count) {
    const sys::UffdRange range = vm_.range_of({page(first), PageCount{count}});
    // A discard may put the RAM file back at any moment; then the guard fails.
    if (vm_.uffd().register_for_guards(range).outcome != Outcome::done ||
        vm_.uffd().guard(range).outcome != Outcome::done) {
      return;
    }
    guarded |= static_cast<Mask>(guest::all_pages(PageCount{count}) << first);
  });
  quiet_ = quiet(proof, guarded);
}

RestoringRun::~RestoringRun() {
  ENSURE(!asked_);
  if (owned_ == 0) return;
  lift(owned_);
  release(owned_);
}

Settled RestoringRun::restore(guest::AgentPort& agent, std::chrono::milliseconds wait) {
  if (asked_) return Settled::no;
  if (owned_ == 0) return Settled::yes;
  asked_ = true;
  if (quiet_ != 0 && ask(agent, guest::AgentAct::restore, quiet_, {}, wait) == Settled::no) {
    return Settled::no;
  }
  return settle();
}

Settled RestoringRun::settle() noexcept {
  if (!asked_) return Settled::yes;
  if (const Status seen = look(owned_); !seen) {
    if (seen.error().code != ESRCH) return Settled::no;
    vm_.set_gone();  // the words' references are given up with the VM's
  } else {
    finish();
  }
  asked_ = false;
  lift(owned_);
  release(owned_);
  owned_ = quiet_ = 0;
  return Settled::yes;
}

void RestoringRun::finish() noexcept {
  const Mask back = that_map(owned_, Maps::ram);
  for_each_run(back, [&](unsigned first, unsigned count) {
    // Without it these pages are guarded by nobody, and never leave. None of them is folded.
    const sys::UffdRange range = vm_.range_of({page(first), PageCount{count}});
    bool registered = false;
    for (int tries = 0; tries < kRegisterTriesMax && !registered; ++tries) {
      registered = vm_.uffd().register_range(range).outcome == Outcome::done;
    }
    if (!registered) vm_.counters().errors.add();
  });
  for_each_bit(back, [&](unsigned i) {
    if (!vm_.advance(page(i), words_[i], words_[i].cleared(), Owner::restoring)) return;
    pool_.give_back(page(i));
    restored_ |= bit(i);
    vm_.counters().restores.add();
  });
}

}  // namespace ramfold::fold
