// SPDX-License-Identifier: GPL-2.0-or-later
// What the rest of the daemon has to say to agents. The agents' room implements it.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "daemon/fleet/attached_vm.hpp"
#include "guest/agent_port.hpp"

namespace ramfold::daemon {

// What becomes of a VM that was let go of.
enum class Afterwards : std::uint8_t {
  stays_away,     // until the operator attaches it
  attached_anew,  // at once: what was proved and said of its process holds
};

class AgentAnswers {
 public:
  virtual ~AgentAnswers() = default;
  // Answers the request to unfold that carried `token`.
  virtual void send_unfolded(const AttachedVm& vm, std::uint32_t token, bool ok) = 0;
  // Of that request `done` pages of `all` have come back: it is worth waiting for.
  virtual void send_unfolding(const AttachedVm& vm, std::uint32_t token, std::uint64_t done,
                              std::uint64_t all) = 0;
  virtual void send_detached(const AttachedVm& vm, Afterwards afterwards) = 0;
  // Asks an agent that waits for its RAM; false: there is none of that pid.
  virtual bool invite(pid_t pid) = 0;
  // Waits for a VM that is being attached right now.
  virtual void finish_offers() = 0;
  // Asks every agent that waits, and whose VM is wanted, for its RAM again.
  virtual void invite_all() = 0;
  // The VM of this process can be served now: has its agent, which was told to wait, say hello
  // again.
  virtual void call_back(pid_t pid) = 0;
  // For commands to the VM's agent, open once that has answered the fence. Null: no agent is there,
  // or it knows no commands. Closed for ever when the connection ends.
  virtual std::shared_ptr<guest::AgentPort> port(const AttachedVm& vm) = 0;
};

}  // namespace ramfold::daemon
