// SPDX-License-Identifier: GPL-2.0-or-later
// Which VM an operator means by an id, a pid, a name or a uuid.
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
  std::optional<VmId> id;  // none of a VM that is not attached
  pid_t pid = 0;
  std::string name;
  std::string uuid;  // may be empty
};

// The place in `vms` of the one that `text` names. A number is an id, else a pid, else a name.
// Several of that name or uuid are a conflict, whose text tells their pids: which one is meant is
// for the operator to say.
control::Answer<std::size_t> select_vm(std::span<const VmLabel> vms, std::string_view text);

}  // namespace ramfold::daemon
