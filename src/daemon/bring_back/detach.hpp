// SPDX-License-Identifier: GPL-2.0-or-later
// `detach`: everything of a VM comes back, and the VM is let go of.
// Threads: any.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "control/service.hpp"
#include "daemon/bring_back/room.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/fleet/agent_answers.hpp"

namespace ramfold::daemon {

class Detach {
 public:
  // REQUIRES: all outlive this. `stopping` ends waits.
  Detach(const Room& room, Departures& departures, AgentAnswers& agents,
         const std::atomic<bool>& stopping) noexcept
      : room_(room), departures_(departures), agents_(agents), stopping_(stopping) {}

  control::Answer<control::UnfoldPlan> plan(const VmHandle& vm) const;
  control::Answer<void> run(const VmHandle& vm, const control::ProgressSink& progress,
                            Afterwards afterwards = Afterwards::stays_away);
  // The daemon ends. What run() did not bring about is for the next one.
  bool is_cut_short() const noexcept { return stopping_; }

 private:
  // How many pages are folded is known soon after a restart; false: not within the time for it.
  bool wait_counted(const AttachedVm& vm) const;

  const Room& room_;
  Departures& departures_;
  AgentAnswers& agents_;
  const std::atomic<bool>& stopping_;
};

// How many pages of these VMs are lost, and of which VM how many.
std::string tell_lost(const std::vector<VmHandle>& vms);
// Of these VMs all is back but the pages that are lost.
std::unexpected<control::OperationError> all_but_lost(const std::vector<VmHandle>& vms);
// A VM that was detached but for its lost pages may be folded again, once it has none.
void take_up(AttachedVm& vm);

// The VM's process holds up the threads that bring its pages back.
std::unexpected<control::OperationError> held_up();

}  // namespace ramfold::daemon
