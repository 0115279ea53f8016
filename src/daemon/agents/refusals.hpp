// SPDX-License-Identifier: GPL-2.0-or-later
// VMs that are refused: their agents ask again every two seconds, and in between nothing is left of
// them but this. Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/agents/waiting_agent.hpp"

namespace ramfold::daemon {

class Refusals {
 public:
  // Of which an account has no more than its share (base/owner_share.hpp); more are not told of.
  static constexpr std::size_t kMax = 512;
  // An agent that has not asked for so long has gone, or is not refused any more.
  static constexpr std::uint64_t kForNs = 20'000'000'000;

  // `account`: sys::SubordinateIds of the agent's user.
  void note(WaitingAgent agent, uid_t account, std::uint64_t now_ns);
  void forget(pid_t pid);
  // Of processes that are there.
  std::vector<WaitingAgent> all(const sys::Procfs& procfs, std::uint64_t now_ns);

 private:
  struct Entry {
    WaitingAgent agent;
    uid_t account;
    std::uint64_t heard_ns;
  };
  Mutex mutex_{"Refusals"};  // takes no other
  std::vector<Entry> entries_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
