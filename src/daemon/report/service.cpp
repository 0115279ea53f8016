// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/service.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <thread>

#include "daemon/agents/attach.hpp"
#include "daemon/custody/policy_change.hpp"
#include "daemon/log.hpp"
#include "daemon/report/policy_views.hpp"
#include "daemon/report/select_vm.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;
using control::VmState;

namespace {

constexpr std::uint64_t kLookWaitNs = 2'000'000'000;
constexpr unsigned kAttachWaits = 100;  // of 50 ms
constexpr auto kAttachNap = std::chrono::milliseconds(50);

// The labels of the VMs, then of the waiting agents, in the same order.
std::vector<VmLabel> labels_of(const std::vector<VmHandle>& vms,
                               const std::vector<WaitingAgent>& waiting = {}) {
  std::vector<VmLabel> labels;
  labels.reserve(vms.size() + waiting.size());
  for (const VmHandle& vm : vms) {
    labels.push_back({vm->vm->id(), vm->vm->pid(), vm->vm->name(), vm->uuid});
  }
  for (const WaitingAgent& agent : waiting) {
    labels.push_back({{}, agent.pid, agent.identity.name, agent.identity.uuid});
  }
  return labels;
}

std::unexpected<control::OperationError> not_offered() {
  return control::refuse(Failure::failed, "the agent did not offer its RAM in time",
                         "see the VM's log");
}

}  // namespace

Answer<VmHandle> HostService::find(const control::VmSelector& selector) const {
  const std::vector<VmHandle> vms = p_.vms.all();
  const auto chosen = select_vm(labels_of(vms), selector.text);
  if (chosen) return vms[*chosen];
  if (chosen.error().failure != Failure::not_found) return std::unexpected(chosen.error());
  return control::refuse(Failure::not_found, fmt::format("no attached VM '{}'", selector.text),
                         chosen.error().remedy);
}

Account HostService::account(const std::vector<VmHandle>& vms) const {
  return host_account(vms, p_.contents, p_.procfs, p_.keeping.keeper_pid());
}

control::Snapshot HostService::snapshot() {
  guest::VmCounters gone;
  const std::vector<VmHandle> vms = p_.departures.all(gone);
  const Account host = account(vms);
  control::Snapshot snapshot;
  snapshot.host = host_view(vms, gone, host);
  for (const VmHandle& vm : vms) snapshot.vms.push_back(vm_view(vm, host, vms));
  for (const WaitingAgent& agent : p_.agents.waiting()) {
    snapshot.vms.push_back(waiting_view(agent, snapshot.host));
  }
  return snapshot;
}

control::VmView HostService::waiting_view(const WaitingAgent& agent,
                                          const control::HostView& host) const {
  control::VmView view;
  view.name = agent.identity.name;
  view.uuid = agent.identity.uuid;
  view.pid = agent.pid;
  view.uid = agent.uid;
  view.state = VmState::connected;
  const std::string remedy = fmt::format("`ramfold attach {}`", agent.pid);
  if (p_.decisions.since(VmDecision::detached, key_of(p_.decisions, agent))) {
    view.state = VmState::detached;
    view.reasons.push_back({"detached", "detached by the operator", remedy});
  } else if (p_.state.off || p_.policy.broken() || p_.decisions.unreadable()) {
    view.reasons = host.reasons;
  } else if (!agent.refused.empty()) {
    view.reasons.push_back({"refused", agent.refused, "its agent asks again by itself"});
  } else {
    view.reasons.push_back(
        {"not-attached", "its agent is connected, its RAM is not attached", remedy});
  }
  return view;
}

Answer<control::VmView> HostService::show(const control::VmSelector& selector) {
  guest::VmCounters gone;
  const std::vector<VmHandle> vms = p_.departures.all(gone);
  const std::vector<WaitingAgent> waiting = p_.agents.waiting();
  const auto chosen = select_vm(labels_of(vms, waiting), selector.text);
  if (!chosen) return std::unexpected(chosen.error());
  const Account host = account(vms);
  if (*chosen < vms.size()) return vm_view(vms[*chosen], host, vms);
  return waiting_view(waiting[*chosen - vms.size()], host_view(vms, gone, host));
}

Answer<control::VmView> HostService::attach(const control::VmSelector& selector,
                                            control::Incoming incoming) {
  const std::vector<VmHandle> vms = p_.vms.all();
  const std::vector<WaitingAgent> waiting = p_.agents.waiting();
  const auto chosen = select_vm(labels_of(vms, waiting), selector.text);
  if (!chosen && chosen.error().failure != Failure::not_found) {
    return std::unexpected(chosen.error());
  }
  if (chosen && *chosen < vms.size()) {
    const VmHandle& vm = vms[*chosen];
    // Gives up a detach that was decided and is not done yet.
    const VmKey key = key_of(p_.decisions, *vm);
    const auto given_up = p_.decisions.take_back(VmDecision::detached, key);
    if (!given_up) return not_taken_back(given_up.error());
    if (*given_up) {
      const MutexLock deciding(deciding_);
      vm->paused.store(p_.decisions.since(VmDecision::paused, key).has_value());
    }
    const bool takes_up = vm->let_go && !p_.state.off;
    if (takes_up) take_up(*vm);
    if (*given_up || takes_up) p_.facts.look_again(vm);
    if (incoming == control::Incoming::finished) return believe_incoming(vm);
    if (*given_up || takes_up) return show({fmt::format("{}", vm->vm->id().value)});
    return control::refuse(Failure::conflict,
                           fmt::format("'{}' is attached already", selector.text), {});
  }
  if (auto no = no_attaching()) return std::unexpected(std::move(*no));
  if (!chosen) {
    const auto of_absent = p_.decisions.take_back(VmDecision::detached, selector.text);
    if (!of_absent) return not_taken_back(of_absent.error());
    return control::refuse(Failure::not_found,
                           fmt::format("no connected agent of '{}'{}", selector.text,
                                       *of_absent ? "; it will be attached when it is there" : ""),
                           "start the VM with `ramfold exec -- qemu-system-x86_64 ...`");
  }
  const WaitingAgent& agent = waiting[*chosen - vms.size()];
  const pid_t pid = agent.pid;
  const auto done = p_.decisions.take_back(VmDecision::detached, key_of(p_.decisions, agent));
  if (!done) return not_taken_back(done.error());
  if (!agent.refused.empty()) {
    return control::refuse(Failure::conflict, "it is refused: " + agent.refused,
                           "its agent asks again by itself");
  }
  if (!p_.agents.invite(pid)) {
    return control::refuse(Failure::not_found,
                           fmt::format("no connected agent of '{}'", selector.text),
                           "start the VM with `ramfold exec -- qemu-system-x86_64 ...`");
  }
  const VmHandle vm = await_attached(pid);
  if (!vm) return not_offered();
  if (incoming == control::Incoming::finished) return believe_incoming(vm);
  return show({fmt::format("{}", pid)});
}

VmHandle HostService::await_attached(pid_t pid) const {
  for (unsigned i = 0; i < kAttachWaits; ++i) {
    std::this_thread::sleep_for(kAttachNap);
    if (VmHandle vm = p_.vms.by_pid(pid)) return vm;
  }
  return nullptr;
}

std::optional<control::OperationError> HostService::no_attaching() const {
  if (const auto broken = p_.policy.broken()) {
    return control::OperationError{Failure::conflict, broken->text, broken->remedy, {}};
  }
  if (const auto why = p_.decisions.unreadable()) {
    return control::OperationError{Failure::conflict,
                                   "the operator's earlier decisions cannot be read: " + *why,
                                   "`ramfold resume` attaches all VMs",
                                   {}};
  }
  if (p_.state.off) {
    return control::OperationError{
        Failure::conflict, "ramfold is switched off", "`ramfold resume` attaches all VMs", {}};
  }
  return std::nullopt;
}

Answer<control::VmView> HostService::believe_incoming(const VmHandle& vm) {
  if (Status noted = vm->vm->note_flags(guest::kRecordIncomingFinished); !noted) {
    return control::refuse(Failure::failed, noted.error().text(), "try again");
  }
  vm->incoming_finished.store(true);
  p_.facts.look_now(vm, kLookWaitNs);
  return show({fmt::format("{}", vm->vm->id().value)});
}

Answer<control::UnfoldPlan> HostService::plan_detach(const control::VmSelector& selector) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  return p_.detach.plan({&*vm, 1});
}

Answer<control::UnfoldPlan> HostService::plan_off() { return p_.off.plan(); }

Answer<void> HostService::detach(const control::VmSelector& selector,
                                 const control::ProgressSink& progress) {
  const auto vm = find(selector);
  if (!vm) return std::unexpected(vm.error());
  // Written before the detach begins: if this daemon ends in the middle, the next one continues it.
  const VmKey key = key_of(p_.decisions, **vm);
  const Status written = p_.decisions.decide(VmDecision::detached, key);
  if (auto done = p_.detach.run(*vm, progress); !done) {
    // A VM that has nothing left but lost pages is detached.
    if (p_.detach.is_cut_short() || (*vm)->let_go) return done;
    if (const auto back = p_.decisions.take_back(VmDecision::detached, key); !back) {
      log::error("vm {}: the decision to detach it stays in force: {}", (*vm)->vm->name(),
                 back.error().text());
    }
    return done;
  }
  p_.judge();
  return lasting(written, "the VM is detached");
}

Answer<void> HostService::off(const control::ProgressSink& progress) {
  Status written;
  {
    const MutexLock deciding(deciding_);
    written = p_.off.decide();
  }
  if (auto done = p_.off.off(progress); !done) return done;
  return lasting(written, "everything is back");
}

Answer<void> HostService::lasting(const Status& written, std::string_view what) {
  if (written) return {};
  return control::refuse(
      Failure::failed,
      fmt::format("{}, but only until this daemon ends: {}", what, written.error().text()),
      "make state_dir writable; the daemon tries again by itself");
}

Answer<void> HostService::pause(const control::VmsSelector& vms) {
  const MutexLock deciding(deciding_);
  if (!vms) {
    p_.state.paused.store(true);
    const Status written = p_.decisions.decide(HostDecision::paused);
    p_.judge();
    return lasting(written, "folding is paused");
  }
  const auto vm = find(*vms);
  if (!vm) return std::unexpected(vm.error());
  (*vm)->paused.store(true);
  (*vm)->vm->gate().close();
  return lasting(p_.decisions.decide(VmDecision::paused, key_of(p_.decisions, **vm)),
                 "the VM is paused");
}

Answer<void> HostService::resume_vm(const control::VmSelector& selector) {
  const auto vm = find(selector);
  if (!vm) {
    const auto of_absent = p_.decisions.take_back(VmDecision::paused, selector.text);
    if (!of_absent) return not_taken_back(of_absent.error());
    if (*of_absent) return {};
    return std::unexpected(vm.error());
  }
  const VmKey key = key_of(p_.decisions, **vm);
  const auto done = p_.decisions.take_back(VmDecision::paused, key);
  if (!done) return not_taken_back(done.error());
  (*vm)->paused.store(p_.decisions.since(VmDecision::detached, key).has_value());
  p_.facts.look_again(*vm);
  return {};
}

Answer<void> HostService::resume(const control::VmsSelector& vms) {
  const MutexLock deciding(deciding_);
  if (vms) return resume_vm(*vms);
  if (const auto broken = p_.policy.broken()) {
    return control::refuse(Failure::conflict, broken->text, broken->remedy);
  }
  if (p_.decisions.unreadable()) {
    if (Status anew = p_.decisions.begin_anew(); !anew) return not_taken_back(anew.error());
  }
  return p_.off.resume();
}

Answer<control::PolicyView> HostService::policy(const control::VmsSelector& vm) {
  if (!vm) return policy_view(p_.policy);
  const auto found = find(*vm);
  if (!found) return std::unexpected(found.error());
  return policy_view(p_.policy, **found, key_of(p_.decisions, **found));
}

Answer<control::PolicyView> HostService::set_policy(const control::VmsSelector& vm,
                                                    const std::vector<std::string>& assignments,
                                                    const control::ProgressSink& progress) {
  if (!vm) {
    if (auto done = p_.policy.set(std::nullopt, assignments); !done) {
      return std::unexpected(done.error());
    }
    return policy(vm);
  }
  const auto found = find(*vm);
  if (!found) {
    if (found.error().failure != Failure::not_found) return std::unexpected(found.error());
    const auto taken_back = p_.policy.take_back(vm->text, assignments);
    if (!taken_back) return std::unexpected(taken_back.error());
    if (*taken_back) return control::PolicyView{p_.policy.origin()->file.source.path, {}};
    return std::unexpected(found.error());
  }
  const pid_t pid = (*found)->vm->pid();
  if (auto done = set_of_vm(*found, assignments, progress); !done) {
    return std::unexpected(done.error());
  }
  return policy(control::VmSelector{fmt::format("{}", pid)});  // its id may be another now
}

Answer<void> HostService::set_of_vm(const VmHandle& vm, const std::vector<std::string>& assignments,
                                    const control::ProgressSink& progress) {
  const VmKey key = key_of(p_.decisions, *vm);
  const guest::VmRecord& record = vm->vm->record();
  const auto before = taking_back(p_.policy.origin()->set, key, assignments);
  if (auto done = p_.policy.set(key, assignments); !done) return done;
  const std::string group =
      group_of(*p_.policy.config(), {record.name, vm->uuid}, record.uid, vm->vm->id());
  if (!may_change_group(assignments) || group == record.group) {
    p_.facts.look_again(vm);
    return {};
  }
  const bool was_let_go = vm->let_go;
  auto done = [&]() -> Answer<void> {
    if (auto why = no_attaching()) return std::unexpected(std::move(*why));
    if (vm->lost() != 0) {
      return control::refuse(Failure::conflict,
                             fmt::format("its group stays: it has {} lost pages", vm->lost()),
                             "restart the VM");
    }
    if (!vm->agent_ready) {
      return control::refuse(Failure::conflict, "its group stays: its agent does not answer",
                             "wait until it does, or restart the VM");
    }
    return p_.renewal.attach_anew(vm, progress);
  }();
  if (!done) {
    if (!was_let_go) take_up(*vm);  // pages may have been lost on the way
    if (auto back = p_.policy.set(key, before); !back) {
      log::error("vm {}: what was set stays, and its group is that of before: {}", vm->vm->name(),
                 back.error().text);
    }
    return done;
  }
  log::info("vm {}: it left the trust group {} and gets {}", vm->vm->name(), record.group, group);
  if (!await_attached(vm->vm->pid())) return not_offered();
  return {};
}

}  // namespace ramfold::daemon
