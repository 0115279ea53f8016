// SPDX-License-Identifier: GPL-2.0-or-later
// Sees to it that the keeper is there and holds every VM. While it is not there nothing leaves:
// what was punched then would be lost with this process. A keeper that is stopped holds up whoever
// asks it for ten seconds, so that is done apart.
// Threads: begin() and the free functions any; tend() one.
#pragma once

#include <atomic>
#include <functional>

#include "control/views.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/vm_set.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// Nothing of the VM is punched before this returned true. Says in the log why it did not, when that
// is a new reason for this VM; that there is no keeper is the host's reason. One at a time for one
// VM.
bool hand_over(AttachedVm& vm, Keeping& keeping, const store::Contents& contents);
// Why the keeper does not hold this VM. REQUIRES: it does not.
control::Reason why_not_kept(const AttachedVm& vm);

class HandOver {
 public:
  // `kept` is called for each VM that the keeper has taken, by who handed it over.
  HandOver(VmSet& vms, Keeping& keeping, const store::Contents& contents,
           std::function<void(const VmHandle&)> kept)
      : vms_(vms), keeping_(keeping), contents_(contents), kept_(std::move(kept)) {}

  // Connects and hands over, apart, what the keeper has not got. False: there is no thread for it.
  bool begin();
  enum class Keeper { ours, absent, anothers };
  // Now and then: begins when there is something to do, and says how things are. `anothers`: the
  // keeper came after this daemon and holds what a predecessor left; this daemon, which has folded
  // nothing, has to end so that the next start takes that over. Waits for the keeper only where no
  // thread is to be had.
  Keeper tend();

 private:
  bool has_work() const;
  void work();

  VmSet& vms_;
  Keeping& keeping_;
  const store::Contents& contents_;
  const std::function<void(const VmHandle&)> kept_;
  std::atomic<bool> under_way_{false};
};

}  // namespace ramfold::daemon
