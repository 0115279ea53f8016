// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/fact_watch.hpp"

#include <algorithm>
#include <utility>

#include "base/clock.hpp"
#include "daemon/judge/damage.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kFullEveryNs = 30'000'000'000;  // smaps walk the page tables of all RAM
// All VMs together; what takes longer goes on by itself.
constexpr std::uint64_t kPatienceNs = 2'000'000'000;
constexpr std::uint64_t kMomentNs = 20'000'000;

// The VM's facts are not known, and while they are not it is not folded.
void note_held(AttachedVm& vm) {
  vm.vm->gate().close();
  const MutexLock lock(vm.facts.mutex);
  vm.facts.reasons = {
      {guest::ReasonCode::unreadable, "its process does not let itself be looked at",
       "end the VM, or what holds its memory map: a file system that does not answer?"}};
  vm.facts.read_once = true;
  if (std::exchange(vm.facts.held_said, true)) return;
  log::warn(
      "vm {} (pid {}): its process does not let itself be looked at: it is not folded meanwhile",
      vm.vm->name(), vm.vm->pid());
}

}  // namespace

void FactWatch::begin(guest::HostFacts host, const guest::Custody& custody) {
  owned_sight_ = std::make_unique<Sight>(procfs_, std::move(host), custody);
  sight_.store(owned_sight_.get());
}

std::uint64_t FactWatch::check() {
  const std::vector<VmHandle> vms = vms_.all();
  const std::uint64_t now = monotonic_ns();
  const std::uint64_t until_ns = now + kPatienceNs;
  if (!vms.empty()) sight_.load()->others.tend(vms, kPatienceNs, cpu_);
  const guest::Depth depth =
      now - full_ns_ >= kFullEveryNs ? guest::Depth::full : guest::Depth::quick;
  if (depth == guest::Depth::full) full_ns_ = now;
  for (const VmHandle& vm : vms) look_apart(vm, depth, until_ns);
  return cpu_->exchange(0);
}

void FactWatch::look_again(const VmHandle& vm) {
  if (vm->look_asked.exchange(true)) return;
  const bool runs = run_apart([this, vm] {
    vm->look_asked.store(false);
    look_now(vm);
  });
  if (!runs) vm->look_asked.store(false);
}

void FactWatch::look_now(const VmHandle& vm) {
  if (sight_.load() != nullptr && !stopping_) look(vm, guest::Depth::quick);
}

void FactWatch::look_apart(const VmHandle& vm, guest::Depth depth, std::uint64_t until_ns) {
  const std::uint64_t began_ns = monotonic_ns();
  std::atomic<std::uint64_t>& since_ns = vm->facts.looked_at_since_ns;
  if (const std::uint64_t since = since_ns.load(); since != 0) {
    if (began_ns - since >= kPatienceNs) note_held(*vm);
    return;
  }
  since_ns.store(began_ns);
  const std::uint64_t patience_ns = until_ns > began_ns ? until_ns - began_ns : 0;
  const Ended ended =
      run_apart_for(std::max(patience_ns, kMomentNs), [this, vm, depth, cpu = cpu_] {
        const std::uint64_t began_cpu_ns = thread_cpu_ns();
        look(vm, depth);
        cpu->fetch_add(thread_cpu_ns() - began_cpu_ns);
        vm->facts.looked_at_since_ns.store(0);
      });
  if (ended == Ended::never_ran) {
    since_ns.store(0);
    note_held(*vm);
  } else if (ended == Ended::goes_on && monotonic_ns() - began_ns >= kPatienceNs) {
    note_held(*vm);
  }
}

void FactWatch::look(const VmHandle& vm, guest::Depth depth) {
  Sight& sight = *sight_.load();
  const MutexLock looking(vm->facts.looking);
  const std::uint64_t began_ns = monotonic_ns();
  guest::Gate& gate = vm->vm->gate();
  // Epoch and sequence are read before the facts. An unfold that closes the gate meanwhile moves
  // the epoch, and this look then opens nothing. The sequence is moved by older agents only.
  const std::uint32_t epoch = gate.epoch();
  const std::uint32_t sequence = gate.sequence();
  const bool pending = gate.hazard_pending();
  FactState& state = vm->facts;
  guest::VmToCheck what;
  guest::SlowFacts last;
  {
    const MutexLock lock(state.mutex);
    last = state.slow;
    what.agent_hazards = state.hello_hazards | gate.sticky_hazards();
    what.agent_capabilities = state.capabilities;
    if (state.slow_known) what.last = &last;
    what.depth = state.slow_known ? depth : guest::Depth::full;
  }
  what.pid = vm->vm->pid();
  what.start_ticks = vm->vm->record().start_time;
  what.blocks = vm->ram;
  if (vm->pool && vm->pool->is_open()) what.pool = vm->pool->file();
  what.agent_answers = vm->agent_ready;
  what.incoming_finished = vm->incoming_finished;
  const auto others = sight.others.known();
  what.others = others.get();
  guest::Facts facts = sight.facts.read(what);
  if (facts.gone) {
    gate.close();
    vm->vm->set_gone();
    return;
  }
  add_damage(*vm, facts.reasons);
  if (!others) {
    facts.reasons.push_back({guest::ReasonCode::unreadable,
                             "which other processes use its RAM is not known at the moment",
                             "wait"});
  }
  // Facts that took that long to read may be out of date.
  const bool stale = monotonic_ns() - began_ns >= kPatienceNs;
  const bool may_open = !pending && !stale && vm->wants_folding() && facts.foldable();
  const bool unfold = facts.must_unfold();
  if (facts.must_stay_unfolded()) vm->consumer_lasts.store(true);
  if (stale || facts.own_userfaultfd || !vm->is_renewable()) {
    vm->facts.renewable_since_ns = 0;
  } else if (vm->facts.renewable_since_ns == 0) {
    vm->facts.renewable_since_ns = began_ns;
  }
  vm->vcpus.store(static_cast<unsigned>(facts.vcpus), std::memory_order_relaxed);
  const std::uint64_t renewable_since_ns = vm->facts.renewable_since_ns;
  const bool renew = renewable_since_ns != 0 && began_ns - renewable_since_ns >= kRenewAfterNs;
  // Nobody sees a gate that is open beside facts that do not allow it.
  if (!may_open) gate.close();
  {
    const MutexLock lock(state.mutex);
    const auto demanding = std::ranges::find_if(
        facts.reasons, [](const guest::Reason& r) { return guest::demands_unfold(r.code); });
    if (state.unfolded_for.empty() && demanding != facts.reasons.end())
      state.unfolded_for = demanding->text;
    state.reasons = std::move(facts.reasons);
    state.slow = facts.slow;
    state.ram_beside = facts.ram_beside;
    state.slow_known = true;
    state.read_once = true;
  }
  // Another sequence: the facts are out of date, and the agent has asked for a new look. open()
  // does nothing when the gate was closed meanwhile.
  if (may_open && gate.sequence() == sequence) (void)gate.open(sequence, epoch);
  if (unfold) must_unfold_(vm);
  if (renew) may_renew_(vm);
}

}  // namespace ramfold::daemon
