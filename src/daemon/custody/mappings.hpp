// SPDX-License-Identifier: GPL-2.0-or-later
// Custody of mapped pages: makes the pools of trust groups, has the keeper keep them, gives them to
// agents, and finds out after a restart which pages map them. Which pages are mapped and put back
// is the work room's (AttachedVm::may_map, may_restore).
//
// A pool is with the keeper before a VM's pool is open, so before any page can map it. The slots of
// a pool are given out and freed only when the mappings of all VMs of its group are known. Nothing
// here stops folding.
// Threads: tend() one; fenced() any. Calls that take long run on threads of their own.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "control/views.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "sys/procfs.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// The kernel can say what an address maps, and an mmap that fails changes nothing. No agent may map
// without both.
bool kernel_can_map(const sys::Procfs& procfs);

// Why no page of this VM begins to map the pool. Empty: nothing stands against it, or `map` is off.
std::optional<control::Reason> why_not_mapped(const AttachedVm& vm);

class Mappings {
 public:
  struct Parts {
    VmSet& vms;
    store::Contents& contents;
    Keeping& keeping;
    AgentAnswers& agents;
    const HostState& state;
    const sys::Procfs& procfs;
    const std::atomic<bool>& stopping;
  };
  // REQUIRES: all parts outlive this.
  explicit Mappings(Parts parts);

  // Call it regularly.
  void tend();
  // The VM's agent has answered a fence of this daemon.
  void fenced(const VmHandle& vm);

 private:
  void find(const VmHandle& vm);
  MapObstacle obstacle_of(AttachedVm& vm) const;
  bool has_work() const;
  void work();
  void settle_groups();
  MapObstacle open(AttachedVm& vm);

  Parts p_;
  const bool kernel_can_;
  std::atomic<std::uint64_t> found_again_ns_{0};
  std::atomic<bool> under_way_{false};
  std::atomic<bool> groups_left_{true};  // the mappings of some group are not known
  std::atomic<std::uint64_t> forget_due_ns_{0};
  // Of work(), which runs once at a time.
  std::optional<std::vector<GroupId>> unknown_;  // groups whose mappings are not known
};

}  // namespace ramfold::daemon
