// SPDX-License-Identifier: GPL-2.0-or-later
// Messages from other rooms to agents. The agents' room implements this interface.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "daemon/fleet/attached_vm.hpp"
#include "guest/agent_port.hpp"

namespace ramfold::daemon {

// What follows a detach.
enum class Afterwards : std::uint8_t {
  stays_away,     // it is attached again only when the operator says so
  attached_anew,  // it is attached again at once; facts proved about its process stay valid
};

class AgentAnswers {
 public:
  virtual ~AgentAnswers() = default;
  // Answers the request to unfold that carried `token`.
  virtual void send_unfolded(const AttachedVm& vm, std::uint32_t token, bool ok) = 0;
  // Reports progress of the request `token`: `done` of `all` pages are back. The agent then waits
  // longer.
  virtual void send_unfolding(const AttachedVm& vm, std::uint32_t token, std::uint64_t done,
                              std::uint64_t all) = 0;
  virtual void send_detached(const AttachedVm& vm, Afterwards afterwards) = 0;
  // Asks the waiting agent of process `pid` for its RAM. False: no such agent waits.
  virtual bool invite(pid_t pid) = 0;
  // If a VM is being attached right now, waits until that has ended.
  virtual void finish_offers() = 0;
  // Asks every waiting agent whose VM is wanted for its RAM.
  virtual void invite_all() = 0;
  // The VM of this process can be served now. Tells its agent, which waits, to say hello again.
  virtual void call_back(pid_t pid) = 0;
  // The port for commands to the VM's agent. It is open after the agent has answered the fence, and
  // closed for ever when the connection ends. Null: there is no agent, or it knows no commands.
  virtual std::shared_ptr<guest::AgentPort> port(const AttachedVm& vm) = 0;
  // Gives the VM's agent the pool of its group, once for each connection; sets vm.pool_sent. False:
  // there is no agent that knows commands, or it does not read. REQUIRES: vm.pool is open.
  virtual bool send_pool(AttachedVm& vm) = 0;
};

}  // namespace ramfold::daemon
