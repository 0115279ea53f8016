// SPDX-License-Identifier: GPL-2.0-or-later
// Memory saved, and memory spent for it. Net saving = folded pages that guests do not have resident
// - all memory that ramfold needs for them.
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

// The account of the host. `keeper`: the keeper's pid, 0 or less if it does not run.
Account host_account(const std::vector<VmHandle>& vms, const store::Contents& contents,
                     const sys::Procfs& procfs, pid_t keeper);
// One VM's savings. VMs share contents, so they are not measured per VM but split: with part = the
// VM's pages folded to contents / those of the host, the VM gets `part` of the host's shared and
// compressed savings. Its net saving = gross - its own tables - part of the other overhead.
control::Savings vm_savings(const AttachedVm& vm, const Account& host,
                            const std::vector<VmHandle>& vms);
// The memory needed if every folded page came back, minus the arena that this would free.
ByteCount needed_if_all_back(const std::vector<VmHandle>& vms, const store::Stats& stats) noexcept;

}  // namespace ramfold::daemon
