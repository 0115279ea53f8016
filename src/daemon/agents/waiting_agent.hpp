// SPDX-License-Identifier: GPL-2.0-or-later
// An agent whose VM is not attached. Threads: values.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/agents/attach.hpp"

namespace ramfold::daemon {

struct WaitingAgent {
  pid_t pid = -1;
  uid_t uid = 0;
  std::uint64_t start_ticks = 0;
  VmIdentity identity;
  std::string refused;  // why; empty: it was told to wait
};

inline VmKey key_of(const Decisions& decisions, const WaitingAgent& agent) {
  return decisions.key_of(agent.identity.name, agent.identity.uuid, agent.uid, agent.pid,
                          agent.start_ticks);
}

}  // namespace ramfold::daemon
