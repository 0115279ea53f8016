// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/fact_watch.hpp"

#include <algorithm>
#include <chrono>
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

// The log has a line about it already: about the host, about damage of the VM, or about the
// consumer that the VM is unfolded for (bring_back/consumers.hpp).
bool is_told_elsewhere(const guest::Reason& reason, const std::string& unfolded_for) {
  using guest::ReasonCode;
  switch (reason.code) {
    case ReasonCode::kernel_too_old:
    case ReasonCode::self_test_failed:
    case ReasonCode::no_pin_test:
    case ReasonCode::lost_pages:
    case ReasonCode::inconsistent: return true;
    default: return guest::demands_unfold(reason.code) && reason.text == unfolded_for;
  }
}

// The gate is closed for the reasons that were found.
void tell_closed(AttachedVm& vm, std::uint64_t settle_ns) REQUIRES(vm.facts.mutex) {
  const guest::Reason& first = vm.facts.reasons.front();
  if (is_told_elsewhere(first, vm.facts.unfolded_for)) return vm.facts.told.closed_and_told(first);
  if (!vm.facts.told.closed(first, settle_ns, monotonic_ns())) return;
  log::warn("vm {} (pid {}): it is only observed: {}; remedy: {}", vm.vm->name(), vm.vm->pid(),
            first.text, first.remedy);
}

void tell_opened(AttachedVm& vm) {
  const MutexLock lock(vm.facts.mutex);
  if (!vm.facts.told.opened(monotonic_ns())) return;
  log::info("vm {} (pid {}): it may be folded again", vm.vm->name(), vm.vm->pid());
}

// The VM's facts are not known, and while they are not it is not folded.
void publish_unknown(AttachedVm& vm, std::string text, std::string remedy)
    REQUIRES(vm.facts.mutex) {
  vm.vm->gate().close();
  vm.facts.reasons = {{guest::ReasonCode::unreadable, std::move(text), std::move(remedy)}};
  vm.facts.read_once = true;
}

void note_held(AttachedVm& vm) REQUIRES(vm.facts.mutex) {
  publish_unknown(vm, "its process does not let itself be looked at",
                  "end the VM, or what holds its memory map: a file system that does not answer?");
  tell_closed(vm, 0);
}

// The VM cannot help it. Nothing was read since, and what was read before counts for a while: the
// agent still holds back whatever would be a hazard.
void note_no_thread(AttachedVm& vm) REQUIRES(vm.facts.mutex) {
  const bool counts =
      vm.facts.read_ns != 0 && monotonic_ns() - vm.facts.read_ns < FactWatch::kFactsLastNs;
  if (counts) return;
  publish_unknown(vm, "the kernel gives the daemon no thread to look at its process",
                  "raise TasksMax= of ramfold.service; end processes of the host that have very "
                  "many threads");
  vm.facts.told.closed_and_told(vm.facts.reasons.front());  // by check(), once for all VMs
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
  const bool full = now - full_ns_ >= kFullEveryNs;
  if (full) full_ns_ = now;
  bool no_thread = false;
  for (const VmHandle& vm : vms) {
    const bool looked =
        look_regularly(vm, full ? Want::regular_full_look : Want::regular_look, until_ns);
    no_thread = no_thread || !looked;
  }
  if (no_thread && !no_thread_) {
    log::error("the kernel gives no thread to look at VMs: what was found before counts for {} s",
               kFactsLastNs / 1'000'000'000);
  } else if (!no_thread && no_thread_) {
    log::info("there are threads again to look at VMs");
  }
  no_thread_ = no_thread;
  return cpu_->exchange(0);
}

void FactWatch::look_now(const VmHandle& vm, std::uint64_t patience_ns) {
  const auto until = CondVar::Clock::now() + std::chrono::nanoseconds(patience_ns);
  const Request request = ask(vm, Want::look);
  FactState& state = vm->facts;
  const MutexLock lock(state.mutex);
  while (state.looks.runs && state.looks.answered < request.number &&
         state.look_ended.wait_until(state.mutex, until)) {
  }
}

FactWatch::Request FactWatch::ask(const VmHandle& vm, Want want) {
  FactState& state = vm->facts;
  MutexLock lock(state.mutex);
  const std::uint64_t number = ++state.looks.asked;
  state.looks.full = state.looks.full || want == Want::regular_full_look;
  state.looks.counted = state.looks.counted || want != Want::look;
  if (state.looks.runs) return {number, LookThread::runs_already};
  if (sight_.load() == nullptr || stopping_) return {number, LookThread::none};
  state.looks.runs = true;
  state.looks.since_ns = monotonic_ns();
  lock.unlock();
  if (run_apart([this, vm] { answer(vm); })) return {number, LookThread::begun};
  lock.lock();
  state.looks.runs = false;
  state.look_ended.notify_all();
  return {number, LookThread::none};
}

void FactWatch::answer(const VmHandle& vm) {
  FactState& state = vm->facts;
  MutexLock lock(state.mutex);
  Looks& looks = state.looks;
  while (looks.answered != looks.asked && !stopping_) {
    const std::uint64_t asked = looks.asked;
    const bool full = std::exchange(looks.full, false);
    const bool counted = std::exchange(looks.counted, false);
    looks.since_ns = monotonic_ns();
    lock.unlock();
    const std::uint64_t began_cpu_ns = thread_cpu_ns();
    look(vm, full ? guest::Depth::full : guest::Depth::quick);
    if (counted) cpu_->fetch_add(thread_cpu_ns() - began_cpu_ns);
    lock.lock();
    looks.answered = asked;
    state.look_ended.notify_all();
  }
  looks.runs = false;
  state.look_ended.notify_all();
}

bool FactWatch::look_regularly(const VmHandle& vm, Want want, std::uint64_t until_ns) {
  const Request request = ask(vm, want);
  const std::uint64_t now = monotonic_ns();
  const std::uint64_t patience_ns = std::max(until_ns > now ? until_ns - now : 0, kMomentNs);
  const auto until = CondVar::Clock::now() + std::chrono::nanoseconds(patience_ns);
  const MutexLock lock(vm->facts.mutex);
  // A look that runs already may be held up: nobody waits for it.
  while (request.thread == LookThread::begun && vm->facts.looks.runs &&
         vm->facts.looks.answered < request.number &&
         vm->facts.look_ended.wait_until(vm->facts.mutex, until)) {
  }
  if (vm->facts.looks.runs && monotonic_ns() - vm->facts.looks.since_ns >= kPatienceNs)
    note_held(*vm);
  if (request.thread == LookThread::none && !stopping_) note_no_thread(*vm);
  return request.thread != LookThread::none || stopping_;
}

void FactWatch::look(const VmHandle& vm, guest::Depth depth) {
  Sight& sight = *sight_.load();
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
  if (stale) {
    facts.reasons.push_back({guest::ReasonCode::unreadable,
                             "the look at its process took too long: what it found may be out of "
                             "date",
                             "wait: it is looked at again soon"});
  }
  const bool may_open = !pending && vm->wants_folding() && facts.foldable();
  const bool unfold = facts.must_unfold();
  if (facts.must_stay_unfolded()) vm->consumer_lasts.store(true);
  if (stale || facts.own_userfaultfd || !vm->is_renewable()) {
    state.renewable_since_ns = 0;
  } else if (state.renewable_since_ns == 0) {
    state.renewable_since_ns = began_ns;
  }
  vm->vcpus.store(static_cast<unsigned>(facts.vcpus), std::memory_order_relaxed);
  const bool renew =
      state.renewable_since_ns != 0 && began_ns - state.renewable_since_ns >= kRenewAfterNs;
  // Nobody sees a gate that is open beside facts that do not allow it.
  if (!may_open) gate.close();
  {
    const MutexLock lock(vm->facts.mutex);
    const auto demanding = std::ranges::find_if(
        facts.reasons, [](const guest::Reason& r) { return guest::demands_unfold(r.code); });
    if (vm->facts.unfolded_for.empty() && demanding != facts.reasons.end())
      vm->facts.unfolded_for = demanding->text;
    vm->facts.reasons = std::move(facts.reasons);
    vm->facts.slow = facts.slow;
    vm->facts.ram_beside = facts.ram_beside;
    vm->facts.slow_known = true;
    vm->facts.read_once = true;
    if (!stale) vm->facts.read_ns = began_ns;
    if (!vm->facts.reasons.empty()) tell_closed(*vm, ToldReason::kSettleNs);
  }
  // Another sequence: the facts are out of date, and the agent has asked for a new look. open()
  // does nothing when the gate was closed meanwhile.
  if (may_open && gate.sequence() == sequence && gate.open(sequence, epoch)) tell_opened(*vm);
  if (unfold) must_unfold_(vm);
  if (renew) may_renew_(vm);
}

}  // namespace ramfold::daemon
