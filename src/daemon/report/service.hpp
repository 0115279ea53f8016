// SPDX-License-Identifier: GPL-2.0-or-later
// What the control socket asks, answered from the Host.
// Threads: called from the control server's threads; locks for itself.
#pragma once

#include <optional>

#include "control/service.hpp"
#include "daemon/host.hpp"

namespace ramfold::daemon {

class HostService final : public control::Service {
 public:
  explicit HostService(Host& host) noexcept : host_(host) {}

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

 private:
  control::Answer<control::VmView> believe_incoming(const VmHandle& vm);
  control::Answer<VmHandle> find(const control::VmSelector& selector) const;
  control::HostView host_view(const std::vector<VmHandle>& vms, const Account& account) const;
  // Of one group, or of all.
  control::ReformView reform_view(std::optional<GroupId> group) const;
  control::VmView vm_view(const VmHandle& vm, const Account& account,
                          const std::vector<VmHandle>& vms) const;

  Host& host_;
};

}  // namespace ramfold::daemon
