// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/chunk_work.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <memory>
#include <optional>

#include "base/clock.hpp"

namespace ramfold::daemon {
namespace {

// After the store was found full, no new content is stored for this time.
constexpr std::uint64_t kStoreFullRestNs = 5'000'000'000;

}  // namespace

ChunkWork::Done ChunkWork::work(const ChunkClaim& claim) {
  if (claim.counts) return count(claim);
  AttachedVm& vm = *claim.vm;
  // To read a word makes the page table grow. The chunk does not rest: its turn comes when there is
  // room. Words of holes are freed meanwhile.
  if (vm.keeps.too_much.load(std::memory_order_relaxed) == TooMuch::of_tables) {
    Done not_looked_at;
    not_looked_at.met.active = 1;
    return not_looked_at;
  }
  std::optional<scan::Asking> asking;
  if (claim.history != nullptr) asking.emplace(*claim.source, *claim.history);
  std::shared_ptr<guest::AgentPort> agent;
  if (asking && claim.source->needs_agent()) {
    agent = agents_->port(vm);
    if (!agent) asking.reset();  // nobody knows which pages are referenced
  }
  const auto planned =
      planner_.plan(*vm.vm, claim.chunk, claim.rule, windows_, asking ? &*asking : nullptr);
  Done done{.met = planner_.met()};
  if (!planned) {
    if (planned.error().code == ESRCH) vm.vm->set_gone();
    vm.vm->counters().errors.add();
    done.met.active = 1;
    return done;
  }
  // First look at all windows, then fold all: so the clock is read twice per chunk, not twice per
  // window.
  const std::span<const scan::Window> found = std::span(windows_).first(*planned);
  for (const scan::Window& window : found) {
    if (stopping_ || !vm.wants_folding()) return done;
    folder_.look(*vm.vm, vm.group, window, claim.rule.epochs);
  }
  const std::uint64_t began = thread_cpu_ns();
  fold(vm, found);
  done.fold_ns = thread_cpu_ns() - began;
  if (vm.mapping.wanted) {
    for (const scan::Window& window : found) vm.mapping.found.put_parts(window.pages, window.map);
  }
  if (asking) ask(claim, agent.get(), done.met);
  return done;
}

ChunkWork::Done ChunkWork::count(const ChunkClaim& claim) {
  guest::Vm& vm = *claim.vm->vm;
  const PageIndex first{claim.chunk * guest::kChunkPages.value};
  const PageIndex last{std::min(first.value + guest::kChunkPages.value, vm.pages().value)};
  Done done;
  for (const guest::Block& block : vm.blocks()) {
    const PageIndex end = std::min(last, block.end());
    for (PageIndex at = std::max(first, block.first); at < end;) {
      const PageRun run{at, PageCount{std::min(guest::kProofPagesMax.value, end.value - at.value)}};
      const guest::HeldCount held = proof_.count_held(vm, run);
      done.met.present += held.resident;
      done.busy += held.busy;
      at = run.end();
    }
  }
  return done;
}

void ChunkWork::ask(const ChunkClaim& claim, guest::AgentPort* agent, scan::Met& met) {
  guest::Vm& vm = *claim.vm->vm;
  const std::span<const scan::SeenPage> seen = planner_.seen();
  vm.counters().retouched.add(met.asked.retouched);
  vm.counters().touch_ns.add(met.asked.retouched * claim.source->touch_ns());
  if (stopping_ || !claim.vm->wants_folding()) return;
  if (!host_.may_fold(claim.vm->targets.load().when)) return;
  const scan::Question question = scan::choose(vm, seen, claim.sampling);
  met.asked.candidates = question.candidates;
  if (!claim.source->ask(vm, agent, question, seen, *claim.history)) return;
  met.asked.forgotten = question.pages;
  vm.counters().forgotten.add(question.pages);
}

// Without lz4 a page with no equal page would be stored raw, and save nothing.
store::Admit ChunkWork::admitted(const AttachedVm& vm) const noexcept {
  if (host_.store_full()) return store::Admit::existing;
  return vm.targets.load().lz4 ? store::Admit::all : store::Admit::shared;
}

void ChunkWork::fold(AttachedVm& vm, std::span<const scan::Window> windows) {
  const bool may_keep = vm.keeps.too_much.load(std::memory_order_relaxed) == TooMuch::nothing;
  const policy::VmTargets targets = vm.targets.load();
  const classify::Policy policy{targets.zero, may_keep && (targets.share || targets.lz4)};
  for (const scan::Window& window : windows) {
    if (stopping_ || !vm.wants_folding()) return;
    if (!host_.may_fold(vm.targets.load().when)) return;
    const auto wanted = static_cast<std::uint64_t>(std::popcount(window.leaving()));
    if (wanted == 0) continue;
    const std::uint64_t pages = vm.allowance.take(wanted);
    if (pages == 0) return;
    scan::Window allowed = window;
    if (pages != wanted) allowed.limit_leaving(pages);
    folder_.leave(*vm.vm, vm.group, allowed, policy, admitted(vm));
    vm.allowance.settle(pages);
    if (folder_.found_store_full()) host_.rest_store(kStoreFullRestNs);
  }
}

}  // namespace ramfold::daemon
