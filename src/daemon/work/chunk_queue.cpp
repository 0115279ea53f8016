// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/chunk_queue.hpp"

#include <algorithm>
#include <vector>

#include "base/clock.hpp"

namespace ramfold::daemon {
namespace {

// A pass that counts held pages takes at most one of so many parts of the time.
constexpr std::uint64_t kCountingPart = 20;
constexpr unsigned kFreedChunksMax = 128;  // in one turn: 256 pages of words, about 5 ms

void free_words(guest::Vm& vm, std::size_t chunk) noexcept {
  const std::uint64_t first = chunk * guest::kChunkPages.value;
  static_assert(guest::kChunkPages.value % guest::Vm::kWordsAPage == 0);
  for (std::uint64_t p = first; p < first + guest::kChunkPages.value; p += guest::Vm::kWordsAPage) {
    (void)vm.free_words(PageIndex{p});
  }
}

scan::ColdRule rule_of(const AttachedVm& vm, const policy::WorkTargets& targets, unsigned epochs) {
  const unsigned passes = vm.targets.load().passes;
  return {passes, std::max(passes, targets.backoff_passes_max), epochs, vm.mapping.wanted};
}

// Of each second, how much of its threads' time a VM may spend on touches of forgotten pages: half
// of its stall budget. The other half is for pages that come back. Beyond its budget, nothing.
double budget_of_touches(const AttachedVm& vm) noexcept {
  if (vm.held_back.load() == policy::VmActs::Because::over_budget) return 0;
  const unsigned vcpus = std::max(vm.vcpus.load(std::memory_order_relaxed), 1u);
  return vm.targets.load().stall_budget * vcpus / 2;
}

}  // namespace

std::optional<ChunkClaim> ChunkQueue::claim() {
  const MutexLock lock(mutex_);
  meet_new_vms();
  std::optional<ChunkClaim> claim;
  turns_.next([&](VmId id) {
    mutex_.is_held();
    const Turn& turn = met_.at(id);
    const VmHandle vm = turn.vm.lock();
    if (vm) claim = claim_of(vm);
    if (claim) claim->turn = {id, turn.owner};
    return claim.has_value();
  });
  return claim;
}

void ChunkQueue::charge(const scan::Turns::Member& turn, std::uint64_t ns) {
  const MutexLock lock(mutex_);
  turns_.charge(turn, ns);
}

void ChunkQueue::meet_new_vms() {
  const std::uint64_t changes = vms_.changes();
  if (changes == met_changes_) return;
  met_changes_ = changes;
  met_.clear();
  std::vector<scan::Turns::Member> members;
  for (const VmHandle& vm : vms_.all()) {
    const VmId id = vm->vm->id();
    const uid_t owner = ids_.account_of(vm->vm->record().uid);
    met_[id] = {vm, owner};
    members.push_back({id, owner});
  }
  turns_.set(members);
}

std::optional<ChunkClaim> ChunkQueue::claim_of(const VmHandle& vm) {
  const bool counts = !vm->wants_folding() || !vm->vm->gate().is_open();
  if (counts && !vm->counts_held()) return {};
  ScanCursor& cursor = vm->cursor;
  const std::size_t end = scan::chunk_count(*vm->vm);
  const MutexLock lock(cursor.mutex);
  if (cursor.next == end) {
    if (cursor.in_work != 0) return {};
    const std::uint64_t now = monotonic_ns();
    if (cursor.passes != 0 && now - cursor.began_ns < least_ns(cursor, counts)) return {};
    begin_pass(*vm, cursor, now, counts);
  }
  if (!counts) skip_resting(*vm, cursor, end);
  if (cursor.next == end) {
    end_pass_if_over(*vm, cursor);
    return {};
  }
  // Its pages are mapped or put back at this moment.
  if (std::ranges::find(cursor.taken, cursor.next) != cursor.taken.end()) return {};
  ++cursor.in_work;
  ++cursor.chunks;
  const std::size_t chunk = cursor.next++;
  cursor.taken.push_back(chunk);
  const unsigned epochs = cursor.rests ? cursor.rests->epochs(chunk) : 1;
  return ChunkClaim{.vm = vm,
                    .turn = {},
                    .chunk = chunk,
                    .rule = rule_of(*vm, targets_.load(), epochs),
                    .source = cursor.source,
                    .history = cursor.history ? &*cursor.history : nullptr,
                    .sampling = cursor.sampling,
                    .folds = cursor.terms.folds,
                    .counts = counts};
}

std::uint64_t ChunkQueue::least_ns(const ScanCursor& cursor, bool counts) const {
  const auto least = static_cast<std::uint64_t>(targets_.load().pass_seconds * 1e9);
  return counts ? std::max(least, cursor.pass_ns * kCountingPart) : least;
}

void ChunkQueue::begin_pass(AttachedVm& vm, ScanCursor& cursor, std::uint64_t now_ns, bool counts) {
  if (!counts) {
    prepare_questions(vm, cursor, now_ns - cursor.began_ns);
    choose_terms(vm, cursor);
    vm.vm->next_pass();
  }
  cursor.next = 0;
  cursor.began_ns = now_ns;
  cursor.met = {};
  cursor.busy_before = vm.vm->counters().not_quiet_busy.get();
  cursor.busy_counted = 0;
}

void ChunkQueue::choose_terms(AttachedVm& vm, ScanCursor& cursor) {
  if (!cursor.rests) {
    if (auto made = scan::Rests::make(scan::chunk_count(*vm.vm))) cursor.rests = std::move(*made);
  }
  const scan::ColdRule rule = rule_of(vm, targets_.load(), 1);
  const ScanCursor::Terms terms{host_.may_fold(vm.targets.load().when), rule.passes,
                                rule.passes_max};
  cursor.looks_at_all = terms != cursor.terms;
  cursor.terms = terms;
}

void ChunkQueue::end_pass_if_over(AttachedVm& vm, ScanCursor& cursor) {
  if (cursor.next != scan::chunk_count(*vm.vm) || cursor.in_work != 0) return;
  cursor.met_last = cursor.met;
  cursor.busy_last =
      vm.vm->counters().not_quiet_busy.get() - cursor.busy_before + cursor.busy_counted;
  cursor.pass_ns = monotonic_ns() - cursor.began_ns;
  ++cursor.passes;
}

void ChunkQueue::skip_resting(AttachedVm& vm, ScanCursor& cursor, std::size_t end) {
  if (!cursor.rests) return;
  cursor.next = cursor.rests->next_due(cursor.next, end, cursor.looks_at_all, cursor.met,
                                       [&](std::size_t chunk) { return vm.vm->take_stir(chunk); });
}

void ChunkQueue::prepare_questions(const AttachedVm& vm, ScanCursor& cursor,
                                   std::uint64_t elapsed_ns) {
  const scan::ReferencedSource* const source =
      sources_ == nullptr ? nullptr : sources_->chosen(targets_.load().referenced);
  if (source != cursor.source) {
    // The answers of one source say nothing of the questions of another.
    cursor.history.reset();
    cursor.source = nullptr;
  }
  // Nothing is worth a question before the first pass.
  if (source == nullptr || cursor.passes == 0) return;
  if (!cursor.history) {
    auto made = scan::History::make(vm.vm->pages());
    if (!made) return;
    cursor.history = std::move(*made);
    cursor.source = source;
  }
  cursor.sampling.next(elapsed_ns, cursor.met_last.asked,
                       {source->touch_ns(), budget_of_touches(vm)});
}

void ChunkQueue::skip_holes(const ChunkClaim& claim) {
  guest::Vm& vm = *claim.vm->vm;
  ScanCursor& cursor = claim.vm->cursor;
  // Without the cursor's lock: the lock of the RAM file may be held for long.
  const std::size_t backed = scan::next_backed_chunk(vm, claim.chunk);
  if (backed == claim.chunk) return;  // the pages are in swap, or in memory but not mapped
  if (claim.counts) {
    const MutexLock lock(cursor.mutex);
    cursor.next = std::max(cursor.next, backed);
    return;
  }
  free_words(vm, claim.chunk);
  for (unsigned i = 0; i < kFreedChunksMax; ++i) {
    std::size_t from = 0;
    {
      const MutexLock lock(cursor.mutex);
      skip_resting(*claim.vm, cursor, backed);
      from = cursor.next;
    }
    if (from >= backed) return;
    const std::size_t noted = std::min(scan::next_noted_chunk(vm, from), backed);
    {
      // Takes the chunk like any other, so that no other worker works on it.
      const MutexLock lock(cursor.mutex);
      if (cursor.next != from) return;
      cursor.next = std::min(noted + 1, backed);
    }
    if (noted == backed) return;
    free_words(vm, noted);
    const MutexLock lock(cursor.mutex);
    if (cursor.rests) cursor.rests->looked(noted, {}, rest_of(*claim.vm, noted, claim.folds, {}));
  }
}

void ChunkQueue::give_back(const ChunkClaim& claim, const scan::Met& met, std::uint64_t busy) {
  ScanCursor& cursor = claim.vm->cursor;
  const MutexLock lock(cursor.mutex);
  --cursor.in_work;
  std::erase(cursor.taken, claim.chunk);
  cursor.met.present += met.present;
  cursor.met.held += met.held;
  cursor.met.asked.candidates += met.asked.candidates;
  cursor.met.asked.forgotten += met.asked.forgotten;
  cursor.met.asked.retouched += met.asked.retouched;
  cursor.busy_counted += busy;
  if (cursor.rests && !claim.counts) {
    cursor.rests->looked(claim.chunk, met, rest_of(*claim.vm, claim.chunk, claim.folds, met));
  }
  end_pass_if_over(*claim.vm, cursor);
}

unsigned ChunkQueue::rest_of(const AttachedVm& vm, std::size_t chunk, bool folds,
                             const scan::Met& met) const noexcept {
  if (met.active != 0) return 1;
  // While nothing may leave, nothing is missed. A pass looks at every chunk as soon as it may.
  if (!folds) return scan::Rests::kLongest;
  // Pages may come into a chunk that is not registered, and no event tells of it.
  if (met.leaving != 0 || !vm.vm->is_registered(chunk)) return 1;
  return met.warm_for;
}

}  // namespace ramfold::daemon
