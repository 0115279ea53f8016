// SPDX-License-Identifier: GPL-2.0-or-later
// Damage of one VM's page state: pages that are lost, words that were repaired, what does not add
// up. It stops that VM's folding, or its group's, and nobody else's.
// Threads: any.
#pragma once

#include <vector>

#include "daemon/fleet/attached_vm.hpp"
#include "guest/facts.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

// Why it is not folded any more, if so.
void add_damage(const AttachedVm& vm, std::vector<guest::Reason>& reasons);

// Stops a VM whose group was stopped, tells the log what is new, once a VM each, and the VM's
// record what the next daemon cannot find out.
void tend_damage(AttachedVm& vm, const store::Contents& contents);

}  // namespace ramfold::daemon
