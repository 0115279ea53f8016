// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery after a restart: counts the references from the words of all VMs, then lets the store
// rebuild its indexes. Meanwhile faults are served and nothing is folded.
// Threads: run() once, on a thread of its own; trouble() from any.
#pragma once

#include <atomic>
#include <string>

#include "base/thread_annotations.hpp"
#include "daemon/custody/adopter.hpp"
#include "daemon/custody/left_behind.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// Counts the references of one VM, page by page; owns each page while it counts it. Sets vm.counted
// at the end. False: `stop` was set.
bool count_references(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop);

class Recovery {
 public:
  // REQUIRES: all outlive this.
  Recovery(VmSet& vms, Keeping& keeping, LeftBehind& left_behind, Adopter& adopter,
           AgentAnswers& agents, const StopFlag& stopping) noexcept
      : vms_(vms),
        keeping_(keeping),
        left_behind_(left_behind),
        adopter_(adopter),
        agents_(agents),
        stopping_(stopping) {}

  // Returns when all references are counted and the store is whole. False: `stopping` was set.
  bool run();
  // Why the store's recovery failed and is tried again; empty: no failure.
  std::string trouble() const;

 private:
  Result<VmHandle> adopt_late(KeptVm kept);
  bool recover_store();

  VmSet& vms_;
  Keeping& keeping_;
  LeftBehind& left_behind_;
  Adopter& adopter_;
  AgentAnswers& agents_;
  const StopFlag& stopping_;
  mutable Mutex mutex_{"Recovery"};
  std::string trouble_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
