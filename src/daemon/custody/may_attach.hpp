// SPDX-License-Identifier: GPL-2.0-or-later
// The rule whether the VM of an agent may be attached.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "daemon/custody/decisions.hpp"
#include "daemon/custody/left_behind.hpp"
#include "daemon/custody/live_policy.hpp"
#include "daemon/fleet/host_state.hpp"

namespace ramfold::daemon {

struct AttachTerms {
  const HostState& state;
  const LivePolicy& policy;
  const Decisions& decisions;
  const LeftBehind& left_behind;
};

// `pid`, `start_ticks`: the VM's process.
bool may_attach(const AttachTerms& terms, const VmKey& vm, pid_t pid, std::uint64_t start_ticks);

}  // namespace ramfold::daemon
