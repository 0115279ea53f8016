// SPDX-License-Identifier: GPL-2.0-or-later
// What is saved and what it costs, honestly: pages that guests do not have resident, minus
// everything that ramfold spends for it.
// Threads: any; reads counters.
#pragma once

#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "store/stats.hpp"
#include "sys/procfs.hpp"

namespace ramfold::store {
class Contents;
struct Stats;
}  // namespace ramfold::store

namespace ramfold::daemon {

struct Account {
  control::Savings saved;
  control::Spent spent;
  std::uint64_t contents = 0;
  store::Stats store;
};

// The daemon's and the keeper's processes, without the store's mappings.
Account host_account(const std::vector<VmHandle>& vms, const store::Contents& contents,
                     const sys::Procfs& procfs, pid_t keeper);
// One VM's savings. Who of several VMs "is" the content they share cannot be said page by page: the
// forms are split as the host's are, in proportion to the VM's folded contents; its net bears its
// own tables and its part of the rest.
control::Savings vm_savings(const AttachedVm& vm, const Account& host,
                            const std::vector<VmHandle>& vms);
// Memory that would be needed if every folded page came back, net of the arena that this frees.
ByteCount needed_if_all_back(const std::vector<VmHandle>& vms, const store::Stats& stats) noexcept;
PageCount resident(const guest::Vm& vm) noexcept;

}  // namespace ramfold::daemon
