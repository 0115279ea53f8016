// SPDX-License-Identifier: GPL-2.0-or-later
// The steps before the first fault is served after a start: the keeper, the store, the VMs. Their
// time does not depend on the size of RAM.
// Threads: the one that starts the daemon.
#pragma once

#include <memory>
#include <vector>

#include "daemon/custody/adopter.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/custody/left_behind.hpp"
#include "daemon/custody/predecessor.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "policy/config.hpp"
#include "sys/procfs.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

struct TakenOver {
  std::unique_ptr<store::Contents> contents;  // the store of the last daemon, or a new one
  Inheritance left;                           // its VMs; its `store` is moved to `contents`
};

// Takes what the keeper holds. Waits up to 60 s for a keeper that runs and does not answer. Without
// a keeper: makes a new store, and nothing is folded until there is a keeper.
Result<TakenOver> take_over(Keeping& keeping, const sys::Procfs& procfs,
                            const policy::Config& config);

// Begins to serve the VMs that can be served; adds the others to `left_behind`. Returns the number
// of VMs in `vms`.
std::size_t adopt_all(Inheritance left, const std::optional<Remains>& remains, Adopter& adopter,
                      VmSet& vms, LeftBehind& left_behind);

}  // namespace ramfold::daemon
