// SPDX-License-Identifier: GPL-2.0-or-later
// Sees to it that the keeper is there and holds every VM. While it is not there nothing leaves:
// what was punched then would be lost with this process.
// Threads: one, but for the functions that say otherwise.
#pragma once

#include "control/views.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/vm_set.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// Nothing of the VM is punched before this returned true. Says in the log why it did not, when that
// is a new reason for this VM; that there is no keeper is the host's reason. Any thread; one at a
// time for one VM.
bool hand_over(AttachedVm& vm, Keeping& keeping, const store::Contents& contents);
// Why the keeper does not hold this VM. REQUIRES: it does not.
control::Reason why_not_kept(const AttachedVm& vm);

class HandOver {
 public:
  HandOver(VmSet& vms, Keeping& keeping, const store::Contents& contents) noexcept
      : vms_(vms), keeping_(keeping), contents_(contents) {}

  enum class Keeper { ours, absent, anothers };
  // Now and then. `anothers`: the keeper came after this daemon and holds what a predecessor left;
  // this daemon, which has folded nothing, has to end so that the next start takes that over.
  Keeper tend();

 private:
  VmSet& vms_;
  Keeping& keeping_;
  const store::Contents& contents_;
};

}  // namespace ramfold::daemon
