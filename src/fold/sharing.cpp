// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/sharing.hpp"

#include <bit>

#include "base/check.hpp"
#include "base/page_copy.hpp"

namespace ramfold::fold {

using guest::Owner;
using guest::Tag;
using guest::Word;
using sys::Outcome;

SharingRun::SharingRun(guest::Vm& vm, const sys::VmaQuery& vmas, guest::QuietProof& proof,
                       SharedPool& pool, PageRun run, std::span<const ContentId> contents) noexcept
    : AgentRun(vm, vmas, pool, run), pass_(vm.gate().enter()) {
  ENSURE(run.count <= kAgentRunPages && contents.size() == run.count.value);
  if (!pass_->holds()) {
    vm_.counters().aborted_by_gate.add();
    return;
  }
  own(contents);
  // Pages that map the pool already: their words say so, and own() left them alone. One that maps
  // anything else but the RAM file is not ours to guard.
  if (owned_ == 0) return;
  if (!look(owned_)) {
    undo(owned_);
    return;
  }
  undo(without(owned_, that_map(owned_, Maps::ram)));
  if (!guard()) return;
  keep_guarded();
  if (!pass_->holds()) {
    vm_.counters().aborted_by_gate.add();
    undo(owned_);
    return;
  }
  undo(without(owned_, quiet(proof, owned_)));
  compare();
  undo(without(owned_, equal_));
}

SharingRun::~SharingRun() {
  ENSURE(sent_ == 0);
  undo(owned_);
}

void SharingRun::own(std::span<const ContentId> contents) noexcept {
  guest::PageTable& table = vm_.table();
  for (unsigned i = 0; i < run_.count.value; ++i) {
    if (contents[i] == kZeroContent || !table.take_for_mapping(page(i))) continue;
    owned_ |= bit(i);
    const guest::LoadedWord word = table.load(page(i));
    const bool unnamed = word && (word->tag() == Tag::none || word->tag() == Tag::observed);
    const bool clean = word && word->tag() == Tag::clean && word->content() == contents[i];
    if (unnamed && table.discarded(page(i))) table.clear_discard(page(i));
    if ((!unnamed && !clean) || table.discarded(page(i))) {
      // Its guard, if it has one, is not this run's: a clean page needs it (T4).
      owned_ = without(owned_, bit(i));
      release(bit(i));
      continue;
    }
    if (clean) clean_ |= bit(i);
    words_[i] = *word;
    contents_[i] = contents[i];
  }
}

bool SharingRun::guard() noexcept {
  if (owned_ == 0) return false;
  if (vm_.ensure_registered(page(0)).outcome != Outcome::done ||
      vm_.ensure_registered(PageIndex{run_.end().value - 1}).outcome != Outcome::done) {
    vm_.counters().errors.add();
    undo(owned_);
    return false;
  }
  bool all = true;
  for_each_run(owned_, [&](unsigned first, unsigned count) {
    const sys::UffdRange range = vm_.range_of({page(first), PageCount{count}});
    auto guarded = vm_.uffd().guard(range);
    // A discard may have put the RAM file back here, and nobody has registered it since.
    if (guarded.outcome == Outcome::range_gone &&
        vm_.uffd().register_range(range).outcome == Outcome::done) {
      guarded = vm_.uffd().guard(range);
    }
    if (guarded.outcome == Outcome::done) return;
    if (guarded.outcome == Outcome::vm_gone) vm_.set_gone();
    vm_.counters().errors.add();
    all = false;
  });
  if (!all) undo(owned_);
  return all;
}

void SharingRun::keep_guarded() noexcept {
  // As for a fold: in QEMU's page table, and really guarded (D4, D8).
  std::array<sys::PageRegion, kAgentRunPages.value> regions;
  HostVirt walked{};
  const sys::UffdRange range = vm_.range_of(run_);
  const auto n =
      vm_.pagemap().scan(range, sys::kPagePresent,
                         sys::kPagePresent | sys::kPageWritten | sys::kPageHuge, regions, walked);
  Mask good = 0;
  if (n) {
    for (std::size_t r = 0; r < *n; ++r) {
      if ((regions[r].categories & (sys::kPageWritten | sys::kPageHuge)) != 0) continue;
      good |= pages_of(regions[r], range);
    }
  } else {
    vm_.counters().errors.add();
  }
  undo(without(owned_, good));
}

void SharingRun::compare() noexcept {
  if (owned_ == 0) return;
  std::array<ContentId, kAgentRunPages.value> wanted;
  std::array<std::optional<ByteCount>, kAgentRunPages.value> slots;
  for (unsigned i = 0; i < run_.count.value; ++i)
    wanted[i] = (owned_ & bit(i)) != 0 ? contents_[i] : kZeroContent;
  if (!pool_.take(run_.first, std::span(wanted).first(run_.count.value),
                  std::span(slots).first(run_.count.value))) {
    vm_.stop_folding(guest::Inconsistency::slots);
  }
  PageCopy ours;
  PageCopy theirs;
  for_each_bit(owned_, [&](unsigned i) {
    if (!slots[i]) return;
    slots_[i] = *slots[i];
    equal_ |= bit(i);
    const bool same = vm_.read_pages({page(i), PageCount{1}}, ours.bytes.data()) &&
                      pool_.read(slots_[i], theirs.bytes.data()) && ours.bytes == theirs.bytes;
    if (!same) undo(bit(i));
  });
}

Settled SharingRun::map(guest::AgentPort& agent, std::chrono::milliseconds wait) {
  if (sent_ != 0) return Settled::no;
  if (equal_ == 0) return Settled::yes;
  if (!pass_->holds()) {
    vm_.counters().aborted_by_gate.add();
    undo(owned_);
    return Settled::yes;
  }
  vm_.note_leaving();
  Mask kept = 0;
  for_each_bit(equal_, [&](unsigned i) {
    const Word next = words_[i].becomes(Tag::mapped, contents_[i], 0, words_[i].backoff());
    if (vm_.advance(page(i), words_[i], next, Owner::mapping)) {
      words_[i] = next;
      sent_ |= bit(i);
      if ((clean_ & bit(i)) != 0) vm_.counters().clean.sub();
    } else {
      kept |= bit(i);
    }
  });
  from_clean_ = static_cast<Mask>(sent_ & clean_);
  clean_ = without(clean_, sent_);
  undo(kept);
  if (sent_ == 0) return Settled::yes;
  if (ask(agent, guest::AgentAct::map, sent_, slots_, wait) == Settled::no) {
    pass_.reset();
    return Settled::no;
  }
  return settle();
}

Settled SharingRun::settle() noexcept {
  if (sent_ == 0) return Settled::yes;
  if (const Status seen = look(sent_); !seen) {
    if (seen.error().code != ESRCH) return Settled::no;
    vm_.set_gone();  // nothing maps anything; the words' references are given up with the VM's
    mapped_ = sent_;
  } else {
    // Of anything but RAM the slot is kept: whatever the agent has mapped there, it can read no
    // bytes but these.
    mapped_ = without(sent_, that_map(sent_, Maps::ram));
  }
  const Mask back = without(sent_, mapped_);
  for_each_bit(back, [&](unsigned i) {
    if (!vm_.advance(page(i), words_[i], words_[i].cleared(), Owner::mapping)) return;
    emptied_ |= static_cast<Mask>(bit(i) & from_clean_);
  });
  vm_.counters().maps.add(static_cast<std::uint64_t>(std::popcount(mapped_)));
  sent_ = 0;
  owned_ = without(owned_, mapped_);
  equal_ = without(equal_, mapped_);
  release(mapped_);
  undo(back);
  return Settled::yes;
}

// Whose words do not say `mapped`.
void SharingRun::undo(Mask pages) noexcept {
  const Mask ours = static_cast<Mask>(pages & owned_);
  for_each_bit(static_cast<Mask>(ours & equal_), [&](unsigned i) { pool_.give_back(page(i)); });
  lift(without(ours, clean_));
  owned_ = without(owned_, ours);
  clean_ = without(clean_, ours);
  equal_ = without(equal_, ours);
  release(ours);
}

}  // namespace ramfold::fold
