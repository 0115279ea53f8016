// SPDX-License-Identifier: GPL-2.0-or-later
// `detach`: brings all pages of a VM back, then removes the VM.
// Threads: any.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "control/service.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/bring_back/room.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/fleet/agent_answers.hpp"

namespace ramfold::daemon {

class Detach {
 public:
  // REQUIRES: all outlive this. `stopping` ends waits.
  Detach(const Room& room, Departures& departures, AgentAnswers& agents,
         const std::atomic<bool>& stopping) noexcept
      : room_(room), departures_(departures), agents_(agents), stopping_(stopping) {}

  // The plan to bring back all these VMs.
  control::Answer<control::UnfoldPlan> plan(std::span<const VmHandle> vms) const;
  control::Answer<void> run(const VmHandle& vm, const control::ProgressSink& progress,
                            Afterwards afterwards = Afterwards::stays_away);
  // The daemon is ending. If run() was not complete, the next daemon continues it.
  bool is_cut_short() const noexcept { return stopping_; }
  // Waits until the VM's references are counted after a restart. False: not within a minute, or the
  // daemon ends.
  bool wait_counted(const AttachedVm& vm) const;

 private:
  const Room& room_;
  Departures& departures_;
  AgentAnswers& agents_;
  const std::atomic<bool>& stopping_;
};

// Continues each `detach` during which the last daemon ended. It is tried again until it succeeds,
// or until the operator takes the decision back. REQUIRES: all outlive `retries`' tasks.
void go_on_detaching(const std::vector<VmHandle>& vms, const Decisions& decisions, Detach& detach,
                     Retries& retries);

// Text: the number of lost pages of these VMs, in all and per VM.
std::string tell_lost(const std::vector<VmHandle>& vms);
// The error: all pages of these VMs are back, except lost ones.
std::unexpected<control::OperationError> all_but_lost(const std::vector<VmHandle>& vms);
// Attaches a VM again that was detached and stayed because of lost pages. It is folded again when
// it has no lost page.
void take_up(AttachedVm& vm);

// The error: the VM's process holds up the threads that bring its pages back.
std::unexpected<control::OperationError> held_up();

}  // namespace ramfold::daemon
