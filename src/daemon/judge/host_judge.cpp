// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/host_judge.hpp"

#include "daemon/judge/host_words.hpp"
#include "policy/pressure.hpp"

namespace ramfold::daemon {
namespace {

using control::Reason;

// Reasons that forbid folding and also scanning.
void judge_daemon(const HostInputs& in, std::vector<Reason>& reasons) {
  if (in.config_broken) reasons.push_back(*in.config_broken);
  if (in.decisions_unreadable) reasons.push_back(host_words::state(*in.decisions_unreadable));
  if (!in.self_test_passed) {
    reasons.push_back(host_words::starting());
  } else if (!*in.self_test_passed) {
    reasons.push_back(host_words::self_test());
  }
  if (in.no_pin_test) reasons.push_back(host_words::no_pin_test(*in.no_pin_test));
  if (!in.keeper_connected) {
    using host_words::KeeperIs;
    reasons.push_back(
        host_words::no_keeper(in.keeper_silent ? KeeperIs::silent : KeeperIs::absent));
  }
  if (in.recovering && in.recovery_trouble.empty()) {
    reasons.push_back(host_words::recovering());
  } else if (in.recovering) {
    reasons.push_back(host_words::not_recovered(in.recovery_trouble));
  }
  if (in.off) reasons.push_back(host_words::off(in.off_trouble, in.off_but_lost));
  if (in.paused) reasons.push_back(host_words::paused());
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
  if (!memory.promise_kept) verdict.reasons.push_back(host_words::promise());
  return policy::needs_folding(targets.when, memory.memory);
}

}  // namespace

HostVerdict judge_host(const HostInputs& in, const policy::Config& config) {
  HostVerdict verdict;
  for (const UnservedVm& vm : in.unserved)
    verdict.notices.push_back(host_words::unusable_vm(vm.id, vm.why, vm.held));
  judge_daemon(in, verdict.reasons);
  verdict.may_observe = verdict.reasons.empty() && in.memory;
  bool needs_folding = true;
  if (in.memory) {
    needs_folding = judge_memory(in, config, verdict);
  } else {
    verdict.reasons.push_back(host_words::meminfo());
  }
  verdict.may_fold = verdict.reasons.empty();
  // After `may_fold`: a VM may have another `when` than the host.
  if (!needs_folding) {
    verdict.reasons.push_back(
        host_words::memory_plentiful("set fold.when = \"eager\" to fold all the same"));
  }
  // The same: zeros and equal pages are still folded.
  if (in.store_full) verdict.reasons.push_back(host_words::store_full());
  // A broken promise or a full store is a reason to reform. Plentiful memory does not forbid it:
  // the contents are stored already, and should be small when memory is needed.
  verdict.may_reform =
      !in.recovering && !in.off && !in.paused && !in.config_broken && !in.decisions_unreadable;
  return verdict;
}

}  // namespace ramfold::daemon
