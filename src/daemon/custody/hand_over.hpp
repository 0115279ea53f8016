// SPDX-License-Identifier: GPL-2.0-or-later
// Connects to the keeper and gives it every VM. Without the keeper nothing is folded: the bytes of
// punched pages would be lost with this process. A call to a stopped keeper takes ten seconds, so
// it runs on a thread of its own.
// Threads: begin() and the free functions any; tend() one.
#pragma once

#include <atomic>
#include <functional>

#include "control/views.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "store/files.hpp"

namespace ramfold::daemon {

// Gives the VM to the keeper. Nothing of the VM may be punched before this returns true. Logs a
// failure if its reason is new for this VM (an absent keeper is a reason of the host, not of the
// VM). REQUIRES: one call at a time for one VM.
bool hand_over(AttachedVm& vm, Keeping& keeping, const store::StoreFiles& store);
// Why the keeper does not hold this VM. REQUIRES: it does not.
control::Reason why_not_kept(const AttachedVm& vm);

class HandOver {
 public:
  // `kept` is called for each VM that the keeper has taken, on the thread that handed it over.
  HandOver(VmSet& vms, Keeping& keeping, const store::StoreFiles& store,
           std::function<void(const VmHandle&)> kept)
      : vms_(vms), keeping_(keeping), store_(store), kept_(std::move(kept)) {}

  // On a thread of its own: connects, and gives the keeper the VMs that it does not hold. False:
  // the kernel gave no thread.
  bool begin();
  enum class Keeper { ours, absent, anothers };
  // Call it regularly. Calls begin() if there is work, and returns the state of the keeper.
  // `anothers`: the keeper came after the start of this daemon, and holds the store of an earlier
  // daemon. This daemon has folded nothing; it must end, so that the next start takes that store
  // over. Waits for the keeper only if the kernel gives no thread.
  Keeper tend();

 private:
  bool has_work() const;
  void work();
  // One line in the log for all VMs, once until the keeper is connected again.
  void tell_loss();

  VmSet& vms_;
  Keeping& keeping_;
  const store::StoreFiles& store_;
  const std::function<void(const VmHandle&)> kept_;
  std::atomic<bool> under_way_{false};
  bool loss_said_ = false;  // of the thread that has set under_way_
};

}  // namespace ramfold::daemon
