// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/service.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <thread>

#include "daemon/bring_back/unfold.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;
using control::VmState;

namespace {

constexpr std::uint64_t kLookWaitNs = 2'000'000'000;
constexpr unsigned kAttachWaits = 100;  // of 50 ms
constexpr auto kAttachNap = std::chrono::milliseconds(50);

std::unexpected<control::OperationError> still_counting() {
  return control::refuse(Failure::conflict, "pages are still being counted after a restart",
                         "try again");
}

}  // namespace

std::unique_ptr<control::Service> Host::make_service() {
  return std::make_unique<HostService>(*this);
}

Answer<VmHandle> HostService::find(const control::VmSelector& selector) const {
  const std::vector<VmHandle> vms = host_.vms_.all();
  std::uint32_t number = 0;
  const auto [end, error] =
      std::from_chars(selector.text.data(), selector.text.data() + selector.text.size(), number);
  if (error == std::errc{} && end == selector.text.data() + selector.text.size()) {
    for (const VmHandle& vm : vms) {
      if (vm->vm->id().value == number) return vm;
    }
    for (const VmHandle& vm : vms) {
      if (static_cast<std::uint32_t>(vm->vm->pid()) == number) return vm;
    }
  }
  VmHandle found;
  for (const VmHandle& vm : vms) {
    if (vm->vm->name() != selector.text && (vm->uuid.empty() || vm->uuid != selector.text))
      continue;
    if (found) {
      return control::refuse(Failure::conflict,
                             fmt::format("several VMs are called '{}'", selector.text),
                             "use the id or the pid that `ramfold list` shows");
    }
    found = vm;
  }
  if (found) return found;
  return control::refuse(Failure::not_found, fmt::format("no attached VM '{}'", selector.text),
                         "`ramfold list` shows names, ids and pids");
}

control::Snapshot HostService::snapshot() {
  const std::vector<VmHandle> vms = host_.vms_.all();
  const Account account =
      host_account(vms, *host_.contents_, host_.procfs_, host_.keeping_.keeper_pid());
  control::Snapshot snapshot;
  snapshot.host = host_view(vms, account);
  for (const VmHandle& vm : vms) snapshot.vms.push_back(vm_view(vm, account, vms));
  for (const WaitingAgent& agent : host_.agents_->waiting()) {
    control::VmView view;
    view.name = agent.name;
    view.pid = agent.pid;
    view.uid = agent.uid;
    view.state = VmState::connected;
    view.reasons.push_back({"not-attached", "its agent is connected, its RAM is not attached",
                            fmt::format("`ramfold attach {}`", agent.pid)});
    snapshot.vms.push_back(std::move(view));
  }
  return snapshot;
}

Answer<control::VmView> HostService::show(const control::VmSelector& selector) {
  const auto vm = find(selector);
  if (!vm) {
    for (const control::VmView& view : snapshot().vms) {
      if (view.name == selector.text || fmt::format("{}", view.pid) == selector.text) return view;
    }
    return std::unexpected(vm.error());
  }
  const std::vector<VmHandle> vms = host_.vms_.all();
  return vm_view(
      *vm, host_account(vms, *host_.contents_, host_.procfs_, host_.keeping_.keeper_pid()), vms);
}

Answer<control::VmView> HostService::attach(const control::VmSelector& selector,
                                            control::Incoming incoming) {
  if (const auto vm = find(selector)) {
    if (incoming == control::Incoming::finished) return believe_incoming(*vm);
    return control::refuse(Failure::conflict,
                           fmt::format("'{}' is attached already", selector.text), {});
  }
  if (host_.policy_.off) {
    return control::refuse(Failure::conflict, "ramfold is switched off",
                           "`ramfold resume` attaches all VMs");
  }
  for (const WaitingAgent& agent : host_.agents_->waiting()) {
    if (agent.name != selector.text && fmt::format("{}", agent.pid) != selector.text) continue;
    if (!host_.agents_->invite(agent.pid)) break;
    for (unsigned i = 0; i < kAttachWaits; ++i) {
      std::this_thread::sleep_for(kAttachNap);
      const VmHandle vm = host_.vms_.by_pid(agent.pid);
      if (!vm) continue;
      if (incoming == control::Incoming::finished) return believe_incoming(vm);
      return show({fmt::format("{}", agent.pid)});
    }
    return control::refuse(Failure::failed, "the agent did not offer its RAM in time",
                           "see the VM's log");
  }
  return control::refuse(Failure::not_found,
                         fmt::format("no connected agent of '{}'", selector.text),
                         "start the VM with `ramfold exec -- qemu-system-x86_64 ...`");
}

Answer<control::VmView> HostService::believe_incoming(const VmHandle& vm) {
  if (Status noted = vm->vm->note_incoming_finished(); !noted) {
    return control::refuse(Failure::failed, noted.error().text(), "try again");
  }
  vm->incoming_finished.store(true);
  (void)run_apart_for(kLookWaitNs, [this, vm] { host_.look_now(vm); });
  return show({fmt::format("{}", vm->vm->id().value)});
}

Answer<control::UnfoldPlan> HostService::plan_detach(const control::VmSelector& selector) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  if (!host_.wait_counted(**vm)) return still_counting();
  return plan_unfold(**vm, host_.memory_for_unfolding(Host::Reserve::left_alone));
}

Answer<control::UnfoldPlan> HostService::plan_off() {
  control::UnfoldPlan sum;
  sum.available = host_.memory_for_unfolding(Host::Reserve::left_alone);
  for (const VmHandle& vm : host_.vms_.all()) {
    if (!host_.wait_counted(*vm)) return still_counting();
    const control::UnfoldPlan plan = plan_unfold(*vm, sum.available);
    sum.pages.value += plan.pages.value;
    sum.needed.value += plan.needed.value;
    sum.seconds += plan.seconds;
  }
  return sum;
}

Answer<void> HostService::detach(const control::VmSelector& selector,
                                 const control::ProgressSink& progress) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  return host_.detach(*vm, progress);
}

Answer<void> HostService::off(const control::ProgressSink& progress) { return host_.off(progress); }

Answer<void> HostService::pause(const control::VmsSelector& vms) {
  if (!vms) {
    host_.policy_.paused.store(true);
    host_.judge_memory();
    return {};
  }
  const auto vm = find(*vms);
  if (!vm) return std::unexpected(vm.error());
  (*vm)->paused.store(true);
  (*vm)->vm->gate().close();
  return {};
}

Answer<void> HostService::resume(const control::VmsSelector& vms) {
  if (vms) {
    const auto vm = find(*vms);
    if (!vm) return std::unexpected(vm.error());
    (*vm)->paused.store(false);
    host_.look_again(*vm);
    return {};
  }
  host_.policy_.paused.store(false);
  return host_.end_off();
}

}  // namespace ramfold::daemon
