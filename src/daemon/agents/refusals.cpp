// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/refusals.hpp"

#include <algorithm>
#include <utility>

#include "base/owner_share.hpp"

namespace ramfold::daemon {

void Refusals::note(WaitingAgent agent, uid_t account, std::uint64_t now_ns) {
  const MutexLock lock(mutex_);
  std::erase_if(entries_, [&](const Entry& entry) {
    return entry.agent.pid == agent.pid || now_ns - entry.heard_ns > kForNs;
  });
  const auto of_account =
      static_cast<std::size_t>(std::ranges::count(entries_, account, &Entry::account));
  if (OwnerShare(kMax, OwnerShare::kHalf).allows(entries_.size() - of_account, of_account, 1)) {
    entries_.push_back({std::move(agent), account, now_ns});
  }
}

void Refusals::forget(pid_t pid) {
  const MutexLock lock(mutex_);
  std::erase_if(entries_, [pid](const Entry& entry) { return entry.agent.pid == pid; });
}

std::vector<WaitingAgent> Refusals::all(const sys::Procfs& procfs, std::uint64_t now_ns) {
  std::vector<WaitingAgent> agents;
  {
    const MutexLock lock(mutex_);
    for (const Entry& entry : entries_) {
      if (now_ns - entry.heard_ns <= kForNs) agents.push_back(entry.agent);
    }
  }
  std::erase_if(agents, [&](const WaitingAgent& agent) {
    const auto ticks = procfs.start_ticks(agent.pid);
    return !ticks || *ticks != agent.start_ticks;
  });
  return agents;
}

}  // namespace ramfold::daemon
