// SPDX-License-Identifier: GPL-2.0-or-later
// Damage of one VM's page state: lost pages, damaged words, counts that do not add up. It stops the
// folding of that VM, or of its group; other VMs go on.
// Threads: any.
#pragma once

#include <vector>

#include "daemon/fleet/attached_vm.hpp"
#include "guest/facts.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// Appends the reasons why damage forbids to fold this VM, if any.
void add_damage(const AttachedVm& vm, std::vector<guest::Reason>& reasons);

// Stops the folding of a VM whose group was stopped. Logs each kind of damage once per VM. Notes in
// the VM's record what the next daemon cannot find out.
void tend_damage(AttachedVm& vm, const store::Contents& contents);

}  // namespace ramfold::daemon
