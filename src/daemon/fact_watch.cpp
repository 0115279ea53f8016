// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fact_watch.hpp"

#include <algorithm>
#include <spdlog/spdlog.h>

#include "base/clock.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kOthersEveryNs = 5'000'000'000;  // a walk over all processes: an alarm only
constexpr std::uint64_t kFullEveryNs = 30'000'000'000;   // smaps walk the page tables of all RAM

}  // namespace

void FactWatch::check(const std::function<void(const VmHandle&)>& must_unfold) {
  const std::vector<VmHandle> vms = vms_.all();
  const std::uint64_t now = monotonic_ns();
  if (!vms.empty() && (!others_known_ || now - others_ns_ >= kOthersEveryNs)) {
    std::vector<guest::ProcFacts::OwnedFile> files;
    for (const VmHandle& vm : vms) {
      for (const guest::RamBlock& block : vm->ram) files.push_back({block.file, vm->vm->pid()});
    }
    others_ = facts_.other_uses(files, custody_);
    others_known_ = true;
    others_ns_ = now;
  }
  const guest::Depth depth = now - full_ns_ >= kFullEveryNs ? guest::Depth::full : guest::Depth::quick;
  if (depth == guest::Depth::full) full_ns_ = now;
  for (const VmHandle& vm : vms) check_one(vm, depth, must_unfold);
}

void FactWatch::check_one(const VmHandle& vm, guest::Depth depth,
                          const std::function<void(const VmHandle&)>& must_unfold) {
  guest::Gate& gate = vm->vm->gate();
  // The sequence is read before the facts: a hazard that begins meanwhile moves it, and the gate that is
  // opened for the old one does not hold.
  const std::uint32_t sequence = gate.sequence();
  const bool pending = gate.hazard_pending();
  FactState& state = vm->facts;
  guest::VmToCheck what;
  guest::SlowFacts last;
  {
    const std::lock_guard lock(state.mutex);
    last = state.slow;
    what.agent_hazards = state.hello_hazards | gate.sticky_hazards();
    what.agent_capabilities = state.capabilities;
    if (state.slow_known) what.last = &last;
    what.depth = state.slow_known ? depth : guest::Depth::full;
  }
  what.pid = vm->vm->pid();
  what.start_ticks = vm->vm->record().start_time;
  what.blocks = vm->ram;
  what.agent_answers = vm->agent_ready;
  what.incoming_finished = vm->incoming_finished;
  what.others = others_known_ ? &others_ : nullptr;
  guest::Facts facts = facts_.read(what);
  if (facts.gone) {
    gate.close();
    vm->vm->set_gone();
    return;
  }
  auto mode = guest::Gate::Mode::closed;
  if (!pending && vm->wants_folding()) {
    if (facts.foldable()) {
      mode = guest::Gate::Mode::proved;
    } else if (vm->policy.grace_seconds > 0 && facts.foldable_with_grace()) {
      mode = guest::Gate::Mode::grace;
    }
  }
  const bool unfold = facts.must_unfold();
  {
    const std::lock_guard lock(state.mutex);
    const auto demanding =
        std::ranges::find_if(facts.reasons, [](const guest::Reason& r) { return guest::demands_unfold(r.code); });
    if (state.unfolded_for.empty() && demanding != facts.reasons.end()) state.unfolded_for = demanding->text;
    state.reasons = std::move(facts.reasons);
    state.slow = facts.slow;
    state.slow_known = true;
    state.read_once = true;
  }
  open_gate(*vm, mode, sequence);
  if (unfold) must_unfold(vm);
}

void FactWatch::open_gate(AttachedVm& vm, guest::Gate::Mode mode, std::uint32_t sequence) {
  using Mode = guest::Gate::Mode;
  guest::Gate& gate = vm.vm->gate();
  if (mode == Mode::closed) return gate.close();
  if (gate.sequence() != sequence) return;  // what was read is old: the agent has asked for a new look
  Mode& opened_as = vm.facts.opened_as;
  if (mode != opened_as) {
    // A run goes by one set of rules, and the grace mode trusts guards that were made in it.
    gate.close();
    gate.drain();
    if (mode == Mode::grace) {
      const auto wait_ns = static_cast<std::uint64_t>(vm.policy.grace_seconds * 1e9);
      if (Status begun = vm.vm->grace().begin(vm.vm->pages(), wait_ns, monotonic_ns()); !begun) {
        spdlog::error("vm {}: no grace mode: {}", vm.vm->name(), begun.error().text());
        return;
      }
      spdlog::warn("vm {}: GUEST DATA AT RISK: folded under a grace period of {} s", vm.vm->name(),
                   vm.policy.grace_seconds);
    } else if (opened_as == Mode::grace) {
      spdlog::info("vm {}: no grace period is needed any more", vm.vm->name());
    }
    opened_as = mode;
  }
  gate.open(sequence, mode);
}

}  // namespace ramfold::daemon
