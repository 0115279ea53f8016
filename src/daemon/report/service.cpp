// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/service.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <thread>

#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;
using control::VmState;

namespace {

constexpr std::uint64_t kLookWaitNs = 2'000'000'000;
constexpr unsigned kAttachWaits = 100;  // of 50 ms
constexpr auto kAttachNap = std::chrono::milliseconds(50);

}  // namespace

Answer<VmHandle> HostService::find(const control::VmSelector& selector) const {
  const std::vector<VmHandle> vms = p_.vms.all();
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

Account HostService::account(const std::vector<VmHandle>& vms) const {
  return host_account(vms, p_.contents, p_.procfs, p_.keeping.keeper_pid());
}

control::Snapshot HostService::snapshot() {
  const std::vector<VmHandle> vms = p_.vms.all();
  const Account host = account(vms);
  control::Snapshot snapshot;
  snapshot.host = host_view(vms, host);
  for (const VmHandle& vm : vms) snapshot.vms.push_back(vm_view(vm, host, vms));
  for (const WaitingAgent& agent : p_.agents.waiting()) {
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
  const std::vector<VmHandle> vms = p_.vms.all();
  return vm_view(*vm, account(vms), vms);
}

Answer<control::VmView> HostService::attach(const control::VmSelector& selector,
                                            control::Incoming incoming) {
  if (const auto vm = find(selector)) {
    if (incoming == control::Incoming::finished) return believe_incoming(*vm);
    if ((*vm)->let_go && !p_.state.off) {
      take_up(**vm);
      p_.facts.look_again(*vm);
      return show({fmt::format("{}", (*vm)->vm->id().value)});
    }
    return control::refuse(Failure::conflict,
                           fmt::format("'{}' is attached already", selector.text), {});
  }
  if (p_.state.off) {
    return control::refuse(Failure::conflict, "ramfold is switched off",
                           "`ramfold resume` attaches all VMs");
  }
  for (const WaitingAgent& agent : p_.agents.waiting()) {
    if (agent.name != selector.text && fmt::format("{}", agent.pid) != selector.text) continue;
    if (!p_.agents.invite(agent.pid)) break;
    for (unsigned i = 0; i < kAttachWaits; ++i) {
      std::this_thread::sleep_for(kAttachNap);
      const VmHandle vm = p_.vms.by_pid(agent.pid);
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
  if (Status noted = vm->vm->note_flags(guest::kRecordIncomingFinished); !noted) {
    return control::refuse(Failure::failed, noted.error().text(), "try again");
  }
  vm->incoming_finished.store(true);
  (void)run_apart_for(kLookWaitNs, [this, vm] { p_.facts.look_now(vm); });
  return show({fmt::format("{}", vm->vm->id().value)});
}

Answer<control::UnfoldPlan> HostService::plan_detach(const control::VmSelector& selector) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  return p_.detach.plan(*vm);
}

Answer<control::UnfoldPlan> HostService::plan_off() { return p_.off.plan(); }

Answer<void> HostService::detach(const control::VmSelector& selector,
                                 const control::ProgressSink& progress) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  auto done = p_.detach.run(*vm, progress);
  if (done) p_.judge();
  return done;
}

Answer<void> HostService::off(const control::ProgressSink& progress) {
  return p_.off.off(progress);
}

Answer<void> HostService::pause(const control::VmsSelector& vms) {
  if (!vms) {
    p_.state.paused.store(true);
    p_.judge();
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
    p_.facts.look_again(*vm);
    return {};
  }
  p_.state.paused.store(false);
  return p_.off.resume();
}

}  // namespace ramfold::daemon
