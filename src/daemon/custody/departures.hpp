// SPDX-License-Identifier: GPL-2.0-or-later
// VMs that leave: because their process has ended, because everything of them is back, or because
// nothing of them was ever folded. Each way ends with the VM out of the set and out of the keeper.
// Threads: any; bury_dead() by one. The rest of a dead VM is cleared away on a thread of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/task_thread.hpp"
#include "guest/vm_counters.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class Departures {
 public:
  // REQUIRES: all outlive this. `stopping` ends waits.
  Departures(VmSet& vms, Keeping& keeping, store::Contents& contents,
             const std::atomic<bool>& stopping) noexcept
      : vms_(vms), keeping_(keeping), contents_(contents), stopping_(stopping) {}

  // Starts the undertaker when it does not run; the dead wait for it.
  Status begin() { return undertaker_.begin(); }
  // What was left of VMs, and found no thread to be destroyed on, is destroyed. Called by one.
  void tend();
  // VMs whose process has ended: their references are given up and their RAM is closed.
  void bury_dead();
  // A VM of which everything is back. Waits for its fault service at most `patience_ns`.
  void let_go(const VmHandle& vm, std::uint64_t patience_ns);
  // A VM of which nothing is folded; false: something is, or that is not known yet. Does not wait
  // for the keeper.
  bool forget_unused(const VmHandle& vm);
  // Waits until every VM that was buried before is cleared away.
  void drain() { undertaker_.drain(); }
  void stop() noexcept { undertaker_.stop(); }
  // The VMs in the set; the events of all that were in it before are added to `gone`. Each VM is in
  // one of the two.
  std::vector<VmHandle> all(guest::VmCounters& gone) const;
  // CPU time that the fault services of VMs took that are not in the set any more.
  std::uint64_t fault_cpu_ns() const noexcept { return fault_cpu_ns_.load(); }

 private:
  void leave_set(const AttachedVm& vm);  // what it counted goes to `gone_`
  void take_out(const AttachedVm& vm);   // waits for the keeper
  void take_out_apart(const AttachedVm& vm);
  void bury(VmHandle vm);

  VmSet& vms_;
  Keeping& keeping_;
  store::Contents& contents_;
  const std::atomic<bool>& stopping_;
  mutable Mutex leaving_mutex_{
      "Departures::leaving"};  // while a VM goes from the set to `gone_`; before VmSet's
  guest::VmCounters gone_ GUARDED_BY(leaving_mutex_);
  std::atomic<std::uint64_t> fault_cpu_ns_{0};
  bool keeps_said_ = false;
  TaskThread undertaker_{"rf-undertaker"};
};

}  // namespace ramfold::daemon
