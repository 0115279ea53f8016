// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/host_judge.hpp"

#include <fmt/format.h>

#include "policy/pressure.hpp"

namespace ramfold::daemon {
namespace {

using control::Reason;

// Reasons that forbid folding and also scanning.
void judge_daemon(const HostInputs& in, std::vector<Reason>& reasons) {
  if (in.config_broken) reasons.push_back(*in.config_broken);
  if (in.decisions_unreadable) {
    reasons.push_back(
        {"state", "the operator's earlier decisions cannot be read: " + *in.decisions_unreadable,
         "`ramfold resume` puts that file aside and folds again, also VMs that were paused or "
         "detached"});
  }
  if (!in.self_test_passed) {
    reasons.push_back({"starting", "the self-test of the kernel is running", "wait"});
  } else if (!*in.self_test_passed) {
    reasons.push_back({"self-test",
                       "a fact about the kernel that folding relies on does not hold here",
                       "see `ramfold doctor`; Linux 6.7 or newer is needed"});
  }
  if (in.no_pin_test) {
    reasons.push_back({"no-pin-test",
                       "the kernel cannot be asked who holds a page: " + in.no_pin_test->text,
                       in.no_pin_test->remedy});
  }
  if (!in.keeper_connected) {
    reasons.push_back({"no-keeper",
                       in.keeper_silent
                           ? "the keeper is there and does not answer, so nothing may be folded"
                           : "the keeper is not there, so nothing may be folded",
                       "systemctl start ramfold-keeper"});
  }
  if (in.recovering && in.recovery_trouble.empty()) {
    reasons.push_back({"recovering", "the indexes are being rebuilt after a restart", "wait"});
  } else if (in.recovering) {
    reasons.push_back(
        {"not-recovered", "the indexes cannot be rebuilt after a restart: " + in.recovery_trouble,
         "free memory or add swap, it is tried again by itself; folded pages are served"});
  }
  for (const UnservedVm& vm : in.unserved) {
    reasons.push_back(
        {"unusable-vm",
         fmt::format("vm {} was folded by a predecessor and cannot be served: {}", vm.id.value,
                     vm.why),
         vm.held
             ? "end that VM, or what holds its memory map or its RAM file: a file system that "
               "does not answer?; nothing is folded meanwhile"
             : "start the ramfold that folded it, or end that VM; nothing is folded meanwhile"});
  }
  if (in.off && in.off_trouble) {
    reasons.push_back({"off", "switched off, and not everything is back: " + *in.off_trouble,
                       "free memory or add swap, it is tried again by itself; or fold again: "
                       "`ramfold resume`"});
  } else if (in.off && in.off_but_lost) {
    reasons.push_back({"off", "switched off; everything is back but " + *in.off_but_lost,
                       "restart those VMs; until they end, ramfold has to run and serve them. Or "
                       "fold the others again: `ramfold resume`"});
  } else if (in.off) {
    reasons.push_back({"off", "switched off by the operator", "`ramfold resume`"});
  }
  if (in.paused) reasons.push_back({"paused", "paused by the operator", "`ramfold resume`"});
}

// True: VMs without a `when` of their own need folding now.
bool judge_memory(const HostInputs& in, const policy::Config& config, HostVerdict& verdict) {
  control::Promise& promise = verdict.promise;
  promise.needed_if_all_back = in.needed_if_all_back;
  const policy::HostTargets targets = policy::host_targets(config, in.memory->total);
  const policy::MemorySample sample{in.memory->available, in.memory->disk_swap_free,
                                    in.memory_stalled_permille};
  const policy::MemoryVerdict memory =
      policy::judge(targets, sample, in.needed_if_all_back, in.memory_before);
  verdict.memory = memory.memory;
  promise.available = ByteCount{sample.available.value + sample.disk_swap_free.value};
  promise.reserve = targets.reserve;
  promise.unbacked_max = targets.unbacked_max;
  verdict.keep_available = targets.keep_available;
  if (!memory.promise_kept) {
    verdict.reasons.push_back(
        {"promise", "if every folded page came back, the host's memory would not suffice",
         "add memory or swap, run fewer VMs, or raise host.unbacked_max"});
  }
  return policy::needs_folding(targets.when, memory.memory);
}

}  // namespace

control::Reason memory_plentiful(std::string remedy) {
  return {"memory-plentiful", "idle: memory plentiful", std::move(remedy)};
}

HostVerdict judge_host(const HostInputs& in, const policy::Config& config) {
  HostVerdict verdict;
  judge_daemon(in, verdict.reasons);
  verdict.may_observe = verdict.reasons.empty() && in.memory;
  bool needs_folding = true;
  if (in.memory) {
    needs_folding = judge_memory(in, config, verdict);
  } else {
    verdict.reasons.push_back(
        {"meminfo", "/proc/meminfo cannot be read", "check that /proc is mounted"});
  }
  verdict.may_fold = verdict.reasons.empty();
  // After `may_fold`: a VM may have another `when` than the host.
  if (!needs_folding) {
    verdict.reasons.push_back(memory_plentiful("set fold.when = \"eager\" to fold all the same"));
  }
  // The same: zeros and equal pages are still folded.
  if (in.store_full) {
    verdict.reasons.push_back({"store-full",
                               "the store has no room for new contents: only zeros and pages that "
                               "are stored already are folded",
                               "raise host.arena_max or free memory"});
  }
  // A broken promise or a full store is a reason to reform. Plentiful memory does not forbid it:
  // the contents are stored already, and should be small when memory is needed.
  verdict.may_reform =
      !in.recovering && !in.off && !in.paused && !in.config_broken && !in.decisions_unreadable;
  return verdict;
}

}  // namespace ramfold::daemon
