// SPDX-License-Identifier: GPL-2.0-or-later
// Another consumer of a VM's RAM (D13), which would read holes as zeros: everything of that VM is
// brought back, and it is not folded again before it is attached anew. A consumer that its agent
// announces waits for that; one that a look finds is there already.
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
  // How long a consumer that its agent holds back waits while no page comes back, before it is
  // refused.
  static constexpr std::uint64_t kWaitNs = 100'000'000'000;

  // REQUIRES: all outlive this. `stopping` ends attempts.
  Consumers(Retries& retries, const Room& room, AgentAnswers& agents,
            const std::atomic<bool>& stopping, std::uint64_t wait_ns = kWaitNs) noexcept
      : retries_(retries), room_(room), agents_(agents), stopping_(stopping), wait_ns_(wait_ns) {}

  // The agent holds a consumer back until it is answered, with `token`.
  void wants_to_begin(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard);
  // It is there; vm.facts.unfolded_for says who. Tried until everything is back.
  void has_begun(const VmHandle& vm);
  // Why the pages of this VM are not back yet.
  std::optional<Retries::Trouble> trouble(const AttachedVm& vm) const;

 private:
  // One that its agent holds back.
  struct Waiting {
    const AttachedVm* vm;  // to compare; its task holds it
    std::uint32_t token;
    std::uint64_t before;  // what had come back when it began to wait
    std::uint64_t told;    // what had come back when its agent was last told
    std::uint64_t told_ns;
  };

  Status bring_back(const VmHandle& vm, Reserve reserve);
  // Tells the agent, for each that waits, what has come back, if anything has.
  void tell(const AttachedVm& vm);

  Retries& retries_;
  const Room& room_;
  AgentAnswers& agents_;
  const std::atomic<bool>& stopping_;
  const std::uint64_t wait_ns_;
  Mutex mutex_{"Consumers"};  // takes no other
  std::list<Waiting> waiting_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
