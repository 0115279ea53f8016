// SPDX-License-Identifier: GPL-2.0-or-later
// `off`: brings all pages of all VMs back, then the keeper gives up the store. This is tried again
// until it succeeds, or until folding is resumed. Lost pages cannot come back: `off` succeeds
// without them. VMs with lost pages are served until they end; after that the keeper gives up the
// store.
// Threads: any.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "control/service.hpp"
#include "daemon/bring_back/detach.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class OffSwitch {
 public:
  struct Parts {
    HostState& state;
    Decisions& decisions;
    VmSet& vms;
    Keeping& keeping;
    store::Contents& contents;
    Departures& departures;
    Detach& detach;
    Room& room;
    Retries& retries;
    AgentAnswers& agents;
    std::function<void()> judge;  // publishes a new verdict about the host
    const std::atomic<bool>& stopping;
  };
  // REQUIRES: all parts outlive this.
  explicit OffSwitch(Parts parts) : p_(std::move(parts)) {}

  control::Answer<control::UnfoldPlan> plan() const;
  // From now on nothing is folded or attached. Error: the decision is in force, but not on the
  // disk, so it ends with this daemon.
  Status decide();
  // REQUIRES: decide() was called.
  control::Answer<void> off(const control::ProgressSink& progress);
  // Continues an `off` that an earlier daemon began, or that failed.
  void go_on();
  // For the loop. Continues `off` after the last VM with lost pages has ended.
  void tend();
  // Takes `off` and `pause` back, and begins to fold again. Refused if this cannot be written to
  // the disk.
  control::Answer<void> resume();
  // Why the last attempt failed; nullopt: none failed.
  std::optional<std::string> trouble() const;
  // If only lost pages are left of all VMs, the VMs that have them. Else empty.
  std::vector<VmHandle> lost_left() const;

 private:
  control::Answer<void> bring_all_back(const control::ProgressSink& progress)
      EXCLUDES(bringing_back_);
  // Why the host or a memory cgroup has no room for all VMs together; nullopt: there is room. The
  // VMs come back one after the other: without this check the first one could fill a cgroup, and
  // the kernel would kill the second one at its next fault.
  std::optional<control::OperationError> lacking() const;

  Parts p_;
  Mutex bringing_back_{"OffSwitch::bringing_back"};  // held during bring_all_back()
  std::atomic<bool> retried_{false};
};

// The error: a decision stays in force, because taking it back could not be written.
std::unexpected<control::OperationError> not_taken_back(const Error& error);

}  // namespace ramfold::daemon
