// SPDX-License-Identifier: GPL-2.0-or-later
// Is there memory to bring pages back? Of the host, and of the VM's own memory cgroup: a vCPU waits
// for memory that a fill does not get, and a full cgroup kills its VM.
// Threads: any.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "control/service.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "policy/pressure.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

using policy::Reserve;  // may bringing pages back take host.reserve too?

class Room {
 public:
  // `read_ns`: what reading a page of a group from the store takes on the average.
  Room(const sys::Procfs& procfs, const policy::Config& config,
       std::function<double(GroupId)> read_ns)
      : procfs_(procfs), config_(config), read_ns_(std::move(read_ns)) {}

  // Memory and swap of the host that bringing back may take.
  ByteCount available(Reserve reserve) const;
  // What bringing this VM back takes, and what there is for it: the host's, or the VM's cgroup's
  // where that is less. Errors: the cgroup has not enough room, when the host has.
  control::Answer<control::UnfoldPlan> plan(const AttachedVm& vm, Reserve reserve) const;
  // Why it cannot be done now; nothing: it can.
  std::optional<control::OperationError> lacking(const AttachedVm& vm, Reserve reserve) const;

 private:
  const sys::Procfs& procfs_;
  const policy::Config& config_;
  const std::function<double(GroupId)> read_ns_;
};

}  // namespace ramfold::daemon
