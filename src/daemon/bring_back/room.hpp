// SPDX-License-Identifier: GPL-2.0-or-later
// Checks that there is memory to bring pages back: memory of the host, and room in the VMs' memory
// cgroups. If a fill gets no memory, its vCPU waits; if a cgroup is full, the kernel kills a VM.
// Threads: any.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "control/service.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "policy/current.hpp"
#include "policy/pressure.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

using policy::Reserve;  // whether bringing pages back may use host.reserve too

class Room {
 public:
  // `read_ns`: the mean time to read a page of a group from the store, in nanoseconds.
  Room(const sys::Procfs& procfs, const policy::Current& config,
       std::function<double(GroupId)> read_ns)
      : procfs_(procfs), config_(config), read_ns_(std::move(read_ns)) {}

  // The host's memory and swap that bringing pages back may use.
  ByteCount available(Reserve reserve) const;
  // The memory and time that bringing all these VMs back needs, and the host's memory available for
  // it. Error: the host has enough, but a memory cgroup that limits some of them has not.
  control::Answer<control::UnfoldPlan> plan(std::span<const VmHandle> vms, Reserve reserve) const;
  // Why these VMs cannot all be brought back now; nullopt: they can.
  std::optional<control::OperationError> lacking(std::span<const VmHandle> vms,
                                                 Reserve reserve) const;

 private:
  const sys::Procfs& procfs_;
  const policy::Current& config_;
  const std::function<double(GroupId)> read_ns_;
};

}  // namespace ramfold::daemon
