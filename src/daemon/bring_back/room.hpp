// SPDX-License-Identifier: GPL-2.0-or-later
// Checks that there is memory to bring pages back: memory of the host, and room in the VM's memory
// cgroup. If a fill gets no memory, its vCPU waits; if the cgroup is full, the kernel kills the VM.
// Threads: any.
#pragma once

#include <functional>
#include <optional>
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
  // The memory and time that bringing this VM back needs, and the host's memory available for it.
  // Error: the host has enough, but the VM's cgroup has not.
  control::Answer<control::UnfoldPlan> plan(const AttachedVm& vm, Reserve reserve) const;
  // Why the VM cannot be brought back now; nullopt: it can.
  std::optional<control::OperationError> lacking(const AttachedVm& vm, Reserve reserve) const;

 private:
  const sys::Procfs& procfs_;
  const policy::Current& config_;
  const std::function<double(GroupId)> read_ns_;
};

}  // namespace ramfold::daemon
