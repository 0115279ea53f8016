// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the VM that an operator names by id, pid, name or uuid.
// Threads: pure functions.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/types.hpp"
#include "control/service.hpp"

namespace ramfold::daemon {

struct VmLabel {
  std::optional<VmId> id;  // nullopt: the VM is not attached
  pid_t pid = 0;
  std::string name;
  std::string uuid;  // may be empty
};

// Returns the index in `vms` of the VM that `text` names. A number is tried as id, then as pid,
// then as name. If several VMs have that name or uuid, the error is `conflict`; its text lists
// their pids.
control::Answer<std::size_t> select_vm(std::span<const VmLabel> vms, std::string_view text);

}  // namespace ramfold::daemon
