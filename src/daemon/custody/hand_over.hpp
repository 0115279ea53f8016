// SPDX-License-Identifier: GPL-2.0-or-later
// Sees to it that the keeper is there and holds every VM. While it is not there nothing leaves:
// what was punched then would be lost with this process.
// Threads: one.
#pragma once

#include <string>

#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/vm_set.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class HandOver {
 public:
  HandOver(VmSet& vms, Keeping& keeping, const store::Contents& contents) noexcept
      : vms_(vms), keeping_(keeping), contents_(contents) {}

  enum class Keeper { ours, absent, anothers };
  // Now and then. `anothers`: the keeper came after this daemon and holds what a predecessor left;
  // this daemon, which has folded nothing, has to end so that the next start takes that over.
  Keeper tend();

 private:
  void complain(const std::string& text);

  VmSet& vms_;
  Keeping& keeping_;
  const store::Contents& contents_;
  std::string complaint_;  // said once
};

}  // namespace ramfold::daemon
