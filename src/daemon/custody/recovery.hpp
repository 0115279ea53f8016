// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery after a restart: counts the references from the words of all VMs, then lets the store
// rebuild its indexes. Meanwhile faults are served and nothing is folded. A VM that cannot be
// counted by then is counted later: it is not folded, and the store holds what its group has.
// Threads: run(), then count_rest(), on one thread; trouble() from any.
#pragma once

#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/custody/adopter.hpp"
#include "daemon/custody/counting.hpp"
#include "daemon/custody/left_behind.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"
#include "store/uncounted.hpp"

namespace ramfold::daemon {

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

  // Returns when the store is whole. False: `stopping` was set.
  bool run();
  // Returns when the VMs that run() did not count are counted or have ended, or `stopping` was set.
  void count_rest();
  // Why the store's recovery failed and is tried again; empty: no failure.
  std::string trouble() const;

 private:
  struct Waiting {
    VmHandle vm;
    Counting counting;
  };
  bool tend();  // true: fewer VMs are uncounted
  store::Uncounted uncounted() const;
  Result<VmHandle> adopt_late(KeptVm kept);
  bool recover_store();

  VmSet& vms_;
  Keeping& keeping_;
  LeftBehind& left_behind_;
  Adopter& adopter_;
  AgentAnswers& agents_;
  const StopFlag& stopping_;
  std::vector<Waiting> waiting_;  // VMs of the fleet that are not counted
  mutable Mutex mutex_{"Recovery"};
  std::string trouble_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
