// SPDX-License-Identifier: GPL-2.0-or-later
// Another consumer of a VM's RAM (D13) would read holes as zeros. So all pages of that VM are
// brought back, and it is not folded until it is attached anew. A consumer that the agent announces
// waits until this is done; a consumer that a look finds runs already.
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <optional>

#include "base/thread_annotations.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/bring_back/room.hpp"
#include "daemon/fleet/agent_answers.hpp"

namespace ramfold::daemon {

class Consumers {
 public:
  // A consumer that its agent holds back is refused if no page comes back for this time.
  static constexpr std::uint64_t kWaitNs = 100'000'000'000;

  // REQUIRES: all outlive this. `stopping` ends attempts.
  Consumers(Retries& retries, const Room& room, AgentAnswers& agents,
            const std::atomic<bool>& stopping, std::uint64_t wait_ns = kWaitNs) noexcept
      : retries_(retries), room_(room), agents_(agents), stopping_(stopping), wait_ns_(wait_ns) {}

  // The agent holds a consumer back until it gets an answer with `token`.
  void wants_to_begin(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard);
  // A consumer runs already; vm.facts.unfolded_for names it. Tries until all pages are back.
  void has_begun(const VmHandle& vm);
  // Why the pages of this VM are not back yet.
  std::optional<Retries::Trouble> trouble(const AttachedVm& vm) const;

 private:
  // A consumer that its agent holds back.
  struct Waiting {
    const AttachedVm* vm;  // only for comparison; the task owns the VM
    std::uint32_t token;
    std::uint64_t before;  // came_back when it began to wait
    std::uint64_t told;    // came_back when its agent was last told
    std::uint64_t told_ns;
  };

  Status bring_back(const VmHandle& vm, Reserve reserve);
  // Reports progress to the agent for each waiting consumer, if more pages have come back.
  void tell(const AttachedVm& vm);

  Retries& retries_;
  const Room& room_;
  AgentAnswers& agents_;
  const std::atomic<bool>& stopping_;
  const std::uint64_t wait_ns_;
  Mutex mutex_{"Consumers"};  // no other lock is taken under it
  std::list<Waiting> waiting_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
