// SPDX-License-Identifier: GPL-2.0-or-later
// Runs the controller of each VM (policy/vm_controller.hpp), once an epoch: senses the VM's
// counters, and publishes the decision in AttachedVm::held_back and allowance. Scan workers ask the
// allowance before they fold.
// Threads: one.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "policy/vm_controller.hpp"

namespace ramfold::daemon {

class StallWatch {
 public:
  // A shorter epoch would take the few faults of one moment for a trend; a longer one would let a
  // guest wait for longer before folding stops.
  static constexpr std::uint64_t kEpochNs = 1'000'000'000;

  // Decides for each VM when its epoch has ended; a VM that is met for the first time gets its
  // first decision at once. `now_ns`: a monotonic clock.
  void check(std::span<const VmHandle> vms, std::uint64_t now_ns, double pass_seconds);

 private:
  struct Watched {
    policy::VmController controller;
    std::uint64_t due_ns = 0;
    bool met = false;  // in this call
  };
  std::map<VmId, Watched> watched_;
};

// Why less of the VM is folded, for the operator; nullopt: its controller allows everything.
std::optional<control::Reason> why_held_back(const AttachedVm& vm);

}  // namespace ramfold::daemon
