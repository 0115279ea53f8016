// SPDX-License-Identifier: GPL-2.0-or-later
// Answers the requests of the control socket, with data of all rooms.
// Threads: called by the threads of the control server; takes its own locks.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "base/thread_annotations.hpp"
#include "control/service.hpp"
#include "daemon/agents/agents.hpp"
#include "daemon/bring_back/consumers.hpp"
#include "daemon/bring_back/detach.hpp"
#include "daemon/bring_back/off_switch.hpp"
#include "daemon/bring_back/renewal.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/custody/live_policy.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/judge/fact_watch.hpp"
#include "daemon/report/accounting.hpp"
#include "daemon/work/work.hpp"
#include "fault/pool.hpp"

namespace ramfold::daemon {

class HostService final : public control::Service {
 public:
  struct Parts {
    LivePolicy& policy;
    Decisions& decisions;
    const sys::Procfs& procfs;
    HostState& state;
    VmSet& vms;
    store::Contents& contents;
    const Keeping& keeping;
    const Departures& departures;
    Agents& agents;
    FactWatch& facts;
    const Work& work;
    Detach& detach;
    Renewal& renewal;
    OffSwitch& off;
    const Consumers& consumers;
    const fault::Pool& fault_pool;
    std::function<void()> judge;  // publishes a new verdict about the host
    std::uint64_t started_ns = 0;
  };
  // REQUIRES: all parts outlive this.
  explicit HostService(Parts parts) : p_(std::move(parts)) {}

  control::Snapshot snapshot() override;
  control::Answer<control::VmView> show(const control::VmSelector& vm) override;
  control::Answer<control::VmView> attach(const control::VmSelector& vm,
                                          control::Incoming incoming) override;
  control::Answer<control::UnfoldPlan> plan_detach(const control::VmSelector& vm) override;
  control::Answer<control::UnfoldPlan> plan_off() override;
  control::Answer<void> detach(const control::VmSelector& vm,
                               const control::ProgressSink& progress) override;
  control::Answer<void> off(const control::ProgressSink& progress) override;
  control::Answer<void> pause(const control::VmsSelector& vms) override;
  control::Answer<void> resume(const control::VmsSelector& vms) override;
  control::Answer<control::PolicyView> policy(const control::VmsSelector& vm) override;
  control::Answer<control::PolicyView> set_policy(const control::VmsSelector& vm,
                                                  const std::vector<std::string>& assignments,
                                                  const control::ProgressSink& progress) override;

 private:
  control::Answer<control::VmView> believe_incoming(const VmHandle& vm);
  // The answer after a decision was carried out. If `written` is an error, the answer tells that
  // the decision ends with this daemon.
  static control::Answer<void> lasting(const Status& written, std::string_view what);
  // Why no VM may be attached now; nullopt: VMs may be attached.
  std::optional<control::OperationError> no_attaching() const;
  control::Answer<void> resume_vm(const control::VmSelector& selector) REQUIRES(deciding_);
  control::VmView waiting_view(const WaitingAgent& agent, const control::HostView& host) const;
  // Sets keys of one VM. If it gets another trust group by this, attaches it anew.
  control::Answer<void> set_of_vm(const VmHandle& vm, const std::vector<std::string>& assignments,
                                  const control::ProgressSink& progress);
  // Waits until the VM of this process is attached. nullptr: not in time.
  VmHandle await_attached(pid_t pid) const;
  control::Answer<VmHandle> find(const control::VmSelector& selector) const;
  Account account(const std::vector<VmHandle>& vms) const;
  // `gone`: the events of VMs that have left.
  control::HostView host_view(const std::vector<VmHandle>& vms, const guest::VmCounters& gone,
                              const Account& account) const;
  // For one group; nullopt: for all.
  control::ReformView reform_view(const store::Stats& stats, std::optional<GroupId> group) const;
  control::VmView vm_view(const VmHandle& vm, const Account& account,
                          const std::vector<VmHandle>& vms) const;

  Parts p_;
  // Held over one decision and its effect. Locked before any other lock.
  Mutex deciding_{"HostService::deciding"};
};

}  // namespace ramfold::daemon
