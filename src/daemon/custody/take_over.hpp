// SPDX-License-Identifier: GPL-2.0-or-later
// The path to the first fault after a start: the keeper, the store, the VMs. Nothing here grows
// with the size of RAM.
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
#include "store/contents.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

struct TakenOver {
  std::unique_ptr<store::Contents> contents;  // the predecessor's, or a new one
  Inheritance left;                           // its VMs; the store is taken out of it
};

// What the keeper has; one that is there and does not answer is waited for. Without a keeper: a new
// store, and nothing is folded until there is one.
Result<TakenOver> take_over(Keeping& keeping, const sys::Procfs& procfs,
                            const policy::Config& config);

// Serves those VMs that can be served; the others go to `left_behind`. Returns how many are served.
std::size_t adopt_all(Inheritance left, const std::optional<Remains>& remains, Adopter& adopter,
                      VmSet& vms, LeftBehind& left_behind);

}  // namespace ramfold::daemon
