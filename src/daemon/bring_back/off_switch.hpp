// SPDX-License-Identifier: GPL-2.0-or-later
// `off`: everything of every VM comes back, and the keeper lets go of the store; tried again by
// itself until that is so, or until folding is resumed. Pages that are lost cannot come back: `off`
// holds without them. Their VMs are served until they end; then the keeper lets go of the store.
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
  // From now on nothing is folded or attached. Error: that does not outlast this daemon.
  Status decide();
  // REQUIRES: decide() was called.
  control::Answer<void> off(const control::ProgressSink& progress);
  // A predecessor has decided it, and may not have ended it.
  void go_on();
  // Goes on where it holds but for lost pages, and the last VM that had some has ended. For the
  // loop.
  void tend();
  // Folding begins again; also ends `pause`. Refused where it cannot be written that it does.
  control::Answer<void> resume();
  // Why not everything is back yet.
  std::optional<std::string> trouble() const;
  // It holds but for pages that are lost: the VMs that have them. Else none.
  std::vector<VmHandle> lost_left() const;

 private:
  control::Answer<void> bring_all_back(const control::ProgressSink& progress)
      EXCLUDES(bringing_back_);

  Parts p_;
  Mutex bringing_back_{"OffSwitch::bringing_back"};  // held while everything is brought back
  std::atomic<bool> retried_{false};
};

// A decision holds on, since it cannot be written that it does not.
std::unexpected<control::OperationError> not_taken_back(const Error& error);

}  // namespace ramfold::daemon
