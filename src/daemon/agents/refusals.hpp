// SPDX-License-Identifier: GPL-2.0-or-later
// The VMs whose agents were refused. A refused agent disconnects and asks again every two seconds;
// in between only this list knows it.
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/agents/waiting_agent.hpp"

namespace ramfold::daemon {

class Refusals {
 public:
  // One account gets at most its share (base/owner_share.hpp). Further VMs are not listed.
  static constexpr std::size_t kMax = 512;
  // An entry is dropped if its agent has not asked again for this time: the agent has gone, or is
  // no longer refused.
  static constexpr std::uint64_t kForNs = 20'000'000'000;

  // `account`: sys::SubordinateIds of the agent's user.
  void note(WaitingAgent agent, uid_t account, std::uint64_t now_ns);
  void forget(pid_t pid);
  // The entries whose process still runs.
  std::vector<WaitingAgent> all(const sys::Procfs& procfs, std::uint64_t now_ns);

 private:
  struct Entry {
    WaitingAgent agent;
    uid_t account;
    std::uint64_t heard_ns;
  };
  Mutex mutex_{"Refusals"};  // no other lock is taken under it
  std::vector<Entry> entries_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
