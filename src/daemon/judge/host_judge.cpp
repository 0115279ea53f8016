// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/host_judge.hpp"

#include <fmt/format.h>

namespace ramfold::daemon {
namespace {

using control::Reason;

// What stands against scanning, too.
void judge_daemon(const HostInputs& in, std::vector<Reason>& reasons) {
  if (!in.self_test_passed) {
    reasons.push_back({"self-test", "a kernel fact that folding stands on does not hold here",
                       "see `ramfold doctor`; Linux 6.7 or newer is needed"});
  }
  if (!in.keeper_connected) {
    reasons.push_back({"no-keeper", "the keeper is not there, so nothing may be folded",
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
  } else if (in.off) {
    reasons.push_back({"off", "switched off by the operator", "`ramfold resume`"});
  }
  if (in.paused) reasons.push_back({"paused", "paused by the operator", "`ramfold resume`"});
}

void judge_memory(const HostInputs& in, const policy::Config& config, HostVerdict& verdict) {
  control::Promise& promise = verdict.promise;
  promise.needed_if_all_back = in.needed_if_all_back;
  promise.available = ByteCount{in.memory->available.value + in.memory->swap_free.value};
  promise.reserve = config.host.reserve.resolve(in.memory->total);
  promise.unbacked_max = config.host.unbacked_max.resolve(in.memory->total);
  verdict.keep_available = config.fold.keep_available.resolve(in.memory->total);
  if (!promise.kept()) {
    verdict.reasons.push_back(
        {"promise", "if every folded page came back, the host's memory would not suffice",
         "add memory or swap, run fewer VMs, or raise host.unbacked_max"});
  }
  if (config.fold.when == policy::FoldWhen::pressure &&
      in.memory->available > verdict.keep_available) {
    verdict.reasons.push_back({"memory-plentiful", "idle: memory plentiful",
                               "set fold.when = \"eager\" to fold all the same"});
  }
}

}  // namespace

HostVerdict judge_host(const HostInputs& in, const policy::Config& config) {
  HostVerdict verdict;
  judge_daemon(in, verdict.reasons);
  verdict.may_observe = verdict.reasons.empty() && in.memory;
  if (in.memory) {
    judge_memory(in, config, verdict);
  } else {
    verdict.reasons.push_back(
        {"meminfo", "/proc/meminfo cannot be read", "check that /proc is mounted"});
  }
  verdict.may_fold = verdict.reasons.empty();
  if (in.store_full) {  // told, but zeros and equal pages go on
    verdict.reasons.push_back({"store-full",
                               "the store has no room for new contents: only zeros and pages that "
                               "are stored already are folded",
                               "raise host.arena_max or free memory"});
  }
  // A broken promise or a full store is a reason to reform. Plentiful memory is none against it:
  // the contents are there, and should be small by the time that memory is needed.
  verdict.may_reform = !in.recovering && !in.off && !in.paused;
  return verdict;
}

}  // namespace ramfold::daemon
