// SPDX-License-Identifier: GPL-2.0-or-later
// After a restart: finds out which pages of a VM map the pool of its group. The kernel says it
// (T2). A word that says `mapped` only tells where to look, and names the content. The VM's agent
// must have answered the fence of this daemon before: until then a command of an earlier daemon
// could still map a page, or put it back.
// Threads: one for each VM. It makes calls that the VM's process can hold up.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

struct MappingsFound {
  std::uint64_t mapped = 0;  // pages that map the pool
  std::uint64_t left = 0;    // pages that were about to map it, or were put back
  // Pages that map neither the pool nor their RAM, although their words say `mapped`.
  std::uint64_t strange = 0;
  std::uint64_t damaged = 0;  // mapped pages whose slots have other bytes than their words name
  // Pages that map the pool, and whose words do not say so. Where the pool cannot be opened: pages
  // that map any file in the place of their RAM.
  std::uint64_t unnamed = 0;

  bool all_known() const noexcept { return strange == 0 && unnamed == 0; }
};

// Opens vm.pool if the VM's group has a pool. Does nothing if it is open. Call it before the first
// look at the VM's facts: that must not take mappings of the pool for something else in the place
// of RAM.
Status open_known_pool(AttachedVm& vm, store::Contents& contents);

// Notes each mapping in vm.pool, and puts the words right of pages that map the RAM file. Repairs
// damaged words of pages that do not map the pool, so that lost pages are counted. At the end the
// VM's mappings are known (guest::Vm::mappings_known), unless there are strange or unnamed pages:
// nobody could put them back, and their bytes may be nowhere else. So the slots stay as they are
// until the VM ends, and the VM cannot be unfolded.
// Errors: ESRCH, the process is gone; ECANCELED, `stop` was set; EAGAIN and others: call it again.
// REQUIRES: the agent has answered the fence; the VM's references are counted; nobody else uses
// vm.pool.
Result<MappingsFound> recover_mappings(AttachedVm& vm, store::Contents& contents,
                                       const std::atomic<bool>& stop);

}  // namespace ramfold::daemon
