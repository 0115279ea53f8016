// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/stall_watch.hpp"

#include <fmt/format.h>

namespace ramfold::daemon {
namespace {

policy::VmSense sense(const AttachedVm& vm, std::uint64_t now_ns) {
  const guest::VmCounters& c = vm.vm->counters();
  // First, so that it is never more than the whole.
  const std::uint64_t touched_ns = c.touch_ns.get();
  return {.now_ns = now_ns,
          .stalled_ns = c.stalled_ns(),
          .faults = c.faults_zero.get() + c.faults_content.get() + c.faults_write_guarded.get(),
          .returned = c.returned_soon.get(),
          .vcpus = vm.vcpus.load(std::memory_order_relaxed),
          .resident = bytes(resident(*vm.vm)),
          .touched_ns = touched_ns};
}

}  // namespace

void StallWatch::check(std::span<const VmHandle> vms, std::uint64_t now_ns, double pass_seconds) {
  for (auto& [id, watched] : watched_) watched.met = false;
  for (const VmHandle& vm : vms) {
    Watched& watched = watched_[vm->vm->id()];
    watched.met = true;
    if (now_ns < watched.due_ns) continue;
    watched.due_ns = now_ns + kEpochNs;
    const policy::VmTargets targets = vm->targets.load();
    const std::uint64_t settled = vm->allowance.settled();
    const policy::VmActs acts = watched.controller.decide(
        sense(*vm, now_ns), {targets.stall_budget, targets.resident_floor, pass_seconds});
    vm->allowance.give(acts.pages_more, acts.pages_max, settled);
    vm->held_back.store(acts.because);
    if (acts.backs_off) vm->vm->counters().backed_off.add();
  }
  std::erase_if(watched_, [](const auto& one) { return !one.second.met; });
}

std::optional<control::Reason> why_held_back(const AttachedVm& vm) {
  using Because = policy::VmActs::Because;
  const policy::VmTargets targets = vm.targets.load();
  switch (vm.held_back.load()) {
    case Because::nothing: break;
    case Because::over_budget:
      return control::Reason{
          "stall-budget",
          fmt::format("its threads waited for ramfold for longer than its stall budget allows "
                      "({:.4g} % of wall time per vCPU): nothing more of it is folded for now",
                      targets.stall_budget * 100),
          "wait: it is folded again when it has been within the budget for a while; or raise "
          "stall_budget"};
    case Because::pages_come_back:
      return control::Reason{
          "stall-budget",
          fmt::format("pages that were folded come back soon: it is folded slowly, so that it "
                      "stays within its stall budget ({:.4g} % of wall time per vCPU)",
                      targets.stall_budget * 100),
          "nothing to do; or raise stall_budget"};
    case Because::at_floor:
      return control::Reason{
          "resident-floor",
          fmt::format(
              "it has no more resident than its floor, {} MiB: nothing more of it is folded",
              targets.resident_floor.value >> 20),
          "nothing to do; or lower resident_floor"};
  }
  return std::nullopt;
}

}  // namespace ramfold::daemon
