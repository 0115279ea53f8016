// SPDX-License-Identifier: GPL-2.0-or-later
// Agents that are told nothing and have no port. A test overrides what it looks at.
// Threads: any.
#pragma once

#include "daemon/fleet/agent_answers.hpp"

namespace ramfold::test {

class SilentAgents : public daemon::AgentAnswers {
 public:
  void send_unfolded(const daemon::AttachedVm&, std::uint32_t, bool) override {}
  void send_unfolding(const daemon::AttachedVm&, std::uint32_t, std::uint64_t,
                      std::uint64_t) override {}
  void send_detached(const daemon::AttachedVm&, daemon::Afterwards) override {}
  bool send_pool(daemon::AttachedVm&) override { return false; }
  bool invite(pid_t) override { return false; }
  void finish_offers() override {}
  void invite_all() override {}
  void call_back(pid_t) override {}
  std::shared_ptr<guest::AgentPort> port(const daemon::AttachedVm&) override { return nullptr; }
};

}  // namespace ramfold::test
