// SPDX-License-Identifier: GPL-2.0-or-later
// Removes VMs: after the end of their process, after all their pages are back, or if they were
// never folded. In each case the VM leaves the set and the keeper.
// Threads: any; bury_dead() by one. A dead VM is cleared away on a thread of its own, which may be
// held up: this outlives it (count_apart()).
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/custody/undertaker.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "guest/vm_counters.hpp"

namespace ramfold::store {
class ContentSource;
}

namespace ramfold::daemon {

class Departures {
 public:
  // REQUIRES: all outlive this. `stopping` ends waits.
  Departures(VmSet& vms, Keeping& keeping, store::ContentSource& contents,
             const std::atomic<bool>& stopping)
      : vms_(vms), keeping_(keeping), contents_(contents), stopping_(stopping) {}

  // Starts the undertaker's thread unless it runs. Dead VMs wait for it.
  Status begin() { return undertaker_.begin(); }
  // Destroys objects of VMs that still wait for a thread (daemon/threads/apart.hpp). Called by one
  // thread.
  void tend();
  // For VMs whose process has ended: gives up their references and closes their RAM.
  void bury_dead();
  // Removes a VM whose pages are all back. Waits at most `patience_ns` for its fault service.
  void let_go(const VmHandle& vm, std::uint64_t patience_ns);
  // Removes a VM that has no folded, clean or lost page. False: it has one, that is not known yet,
  // its agent is ready, or it is being unfolded. Does not wait for the keeper.
  bool forget_unused(const VmHandle& vm);
  // Waits until every VM buried before this call is cleared away, or held up by a process.
  void drain() { undertaker_.drain(); }
  void stop() noexcept { undertaker_.stop(); }
  // Returns the VMs in the set, and adds the events of all VMs that have left to `gone`. Each VM is
  // counted in exactly one of the two.
  std::vector<VmHandle> all(guest::VmCounters& gone) const;
  // CPU time of the fault services of VMs that have left the set.
  std::uint64_t fault_cpu_ns() const noexcept { return fault_cpu_ns_.load(); }

 private:
  void leave_set(const AttachedVm& vm);  // adds its events to `gone_`
  void take_out(const AttachedVm& vm);   // waits for the keeper
  void take_out_apart(const AttachedVm& vm);
  void bury(VmHandle vm);

  VmSet& vms_;
  Keeping& keeping_;
  store::ContentSource& contents_;
  const std::atomic<bool>& stopping_;
  // Held while a VM moves from the set to `gone_`. Locked before the mutex of VmSet.
  mutable Mutex leaving_mutex_{"Departures::leaving"};
  guest::VmCounters gone_ GUARDED_BY(leaving_mutex_);
  std::atomic<std::uint64_t> fault_cpu_ns_{0};
  bool keeps_said_ = false;
  Undertaker undertaker_{keeping_, [this](VmHandle vm) { bury(std::move(vm)); }};
};

}  // namespace ramfold::daemon
