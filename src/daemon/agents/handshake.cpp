// SPDX-License-Identifier: GPL-2.0-or-later
// The part of Agents from an agent's first message until its VM is attached.
#include <fmt/format.h>
#include <sys/socket.h>
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "base/owner_share.hpp"
#include "daemon/agents/agents.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "store/group.hpp"

namespace ramfold::daemon {
namespace {

bool is_zero(const std::uint8_t (&instance)[16]) {
  return std::all_of(std::begin(instance), std::end(instance),
                     [](std::uint8_t b) { return b == 0; });
}

}  // namespace

WaitingAgent Agents::as_waiting(const AgentPeer& peer, const VmIdentity& identity) {
  return {peer.pid, peer.uid, peer.start_ticks, identity, {}};
}

bool Agents::told_to_wait(Connection& c) {
  refusals_.forget(c.peer.pid);
  c.stage = Stage::waiting;
  c.deadline_ns = 0;
  return welcome(c, RF_ACTION_WAIT, nullptr, -1);
}

void Agents::start_look(Connection& c, std::shared_ptr<Look> look) {
  look->pid = c.peer.pid;
  look->uid = c.peer.uid;
  look->account = c.peer.account;
  look->start_ticks = c.peer.start_ticks;
  c.look = look;
  hear(c, false);
  LookDesk::start(desk_, procfs_, std::move(look));
}

void Agents::take_looks() {
  for (std::shared_ptr<Look>& look : desk_->take()) {
    Connection* whose = nullptr;
    {
      const MutexLock lock(mutex_);
      for (Connection& c : connections_) {
        if (c.look == look && !c.closing) whose = &c;
      }
      if (whose != nullptr) {
        whose->look.reset();
        hear(*whose, true);
      }
    }
    if (whose != nullptr) {
      const bool good = look->of_offer ? after_offer(*whose, *look) : after_hello(*whose, *look);
      if (!good) close(*whose);
    }
  }
  // Begins looks for which the kernel gave no thread before.
  LookDesk::tend(desk_, procfs_);
}

bool Agents::on_hello(Connection& c, const guest::Hello& message) {
  const rf_hello& hello = message.wire;
  if (message.version == 0) {
    refuse(c,
           "agent and daemon are of different versions: restart the VM with this version's agent");
    return false;
  }
  // The last connection of this process is still closing, because a run of its VM is under way. The
  // agent connects again later.
  if (closes_another_of(c)) return false;
  const MutexLock lock(mutex_);
  c.hazards = hello.hazards;
  c.capabilities = hello.capabilities;
  c.hello = hello;
  start_look(c, share_apart(std::make_unique<Look>(), c.peer.account));
  return true;
}

bool Agents::after_hello(Connection& c, const Look& look) {
  const rf_hello& hello = c.hello;
  {
    const MutexLock lock(mutex_);
    c.identity = look.identity;
  }
  VmHandle vm = vms_.by_pid(c.peer.pid);
  if (vm && vm->detached) vm = nullptr;
  // The agent may know another VM than the one that is here: a daemon died after it gave the VM to
  // the keeper and before it sent RF_ATTACHED; or a daemon without a keeper attached the VM anew.
  // In both cases nothing was folded.
  const bool other =
      vm && std::memcmp(vm->vm->record().instance, hello.instance, sizeof hello.instance) != 0;
  if (other && hello.folded == 0 && events_.forget_unused(vm)) vm = nullptr;
  if (!vm) {
    const MutexLock lock(mutex_);
    c.folded = hello.folded != 0;
    if (c.folded) {
      complaints_.warn(
          c.peer.account,
          fmt::format(
              "vm {} (pid {}): its pages were folded by an earlier daemon, which left nothing of "
              "the VM here: accesses to these pages wait",
              c.identity.name, c.peer.pid));
    } else if (events_.wanted(as_waiting(c.peer, look.identity))) {
      return invite_now(c);
    }
    return told_to_wait(c);
  }
  const guest::VmRecord& record = vm->vm->record();
  if (record.start_time != c.peer.start_ticks || is_zero(hello.instance) ||
      std::memcmp(record.instance, hello.instance, sizeof record.instance) != 0) {
    refuse(c, "this process is attached already, by another agent");
    return false;
  }
  const MutexLock lock(mutex_);
  c.vm = vm;
  c.stage = Stage::ready;
  c.deadline_ns = monotonic_ns() + kHandshakeNs;
  vm->vm->fillings().agent_is_there(generation_);
  return welcome(c, RF_ACTION_RESUME, record.instance, vm->vm->files().shared.get());
}

bool Agents::invite_now(Connection& c) {
  c.stage = Stage::offer;
  c.deadline_ns = monotonic_ns() + kHandshakeNs;
  return welcome(c, RF_ACTION_OFFER, nullptr, device_.get());
}

bool Agents::invite(pid_t pid) {
  const MutexLock lock(mutex_);
  for (Connection& c : connections_) {
    if (c.stage != Stage::waiting || c.closing || c.peer.pid != pid) continue;
    return !c.folded && invite_now(c);
  }
  return false;
}

void Agents::invite_all() {
  for (const WaitingAgent& agent : waiting()) {
    if (events_.wanted(agent)) (void)invite(agent.pid);
  }
}

void Agents::call_back(pid_t pid) {
  const MutexLock lock(mutex_);
  for (const Connection& c : connections_) {
    if (c.peer.pid == pid && !c.vm && !c.closing) ::shutdown(c.socket.get(), SHUT_RDWR);
  }
}

bool Agents::on_not_received(Connection& c, Stage stage, bool closing_much) {
  if (stage != Stage::offer) {
    refuse(c, "descriptors came with a message that is no offer");
    return false;
  }
  if (!closing_much) {
    refuse(c,
           "descriptors of this user are not received any more: earlier ones still hold up their "
           "receivers; end the process that serves their file system");
    return false;
  }
  // On a busy host also the descriptors of good agents are closed late. So this is no refusal yet:
  // close_late() refuses if it lasts.
  hear(c, false);
  c.put_off = any_put_off_ = true;
  return true;
}

void Agents::hear_put_off() {
  if (!std::exchange(any_put_off_, false)) return;
  const MutexLock lock(mutex_);
  for (Connection& c : connections_) {
    if (!c.put_off || c.closing) continue;
    c.put_off = is_closing_much(c.peer.account);
    if (!c.put_off) hear(c, true);
    any_put_off_ = any_put_off_ || c.put_off;
  }
}

bool Agents::on_offer(Connection& c, const rf_offer& offer, sys::Message& message) {
  if (vms_.by_pid(c.peer.pid)) return false;
  auto look = share_apart(std::make_unique<Look>(), c.peer.account);
  look->of_offer = true;
  look->offer = offer;
  look->features = attacher_.features();
  for (std::size_t i = 0; i < message.fd_count; ++i) look->fds.push_back(std::move(message.fds[i]));
  message.fd_count = 0;
  const MutexLock lock(mutex_);
  look->former = c.former;
  start_look(c, std::move(look));
  return true;
}

bool Agents::after_offer(Connection& c, Look& look) {
  if (!look.status) {
    refuse(c, look.status.error().what);
    return false;
  }
  // The pidfd is older than the look. If its process has not ended, the look was at the process
  // that connected.
  if (has_ended(c.peer.pidfd)) return false;
  const MutexLock offers(offers_mutex_);
  if (!events_.wanted(as_waiting(c.peer, look.identity))) {  // no longer
    const MutexLock lock(mutex_);
    return told_to_wait(c);
  }
  // Looked up after wanted(): a VM that was left behind is first added to `vms_`, and only then can
  // wanted() return true for it.
  if (vms_.by_pid(c.peer.pid)) return false;
  const Beside others = beside(c.peer.account);
  // A VM is in one group and has a bounded number of threads, so this also bounds the owner's share
  // of groups and of threads (docs/design.md, Hostile agents).
  static_assert(kVmsMax <= store::kGroupsMax);
  if (!OwnerShare(kVmsMax, OwnerShare::kHalf).allows(others.of_others, others.of_owner, 1)) {
    refuse(c,
           "too many VMs of its user, or of all together, are attached, or have left and are still "
           "held up: run fewer VMs");
    return false;
  }
  // Duplicates can be closed on this thread if attaching fails. The last reference is in the look,
  // which is destroyed on a thread of its own.
  std::vector<sys::Fd> rams;
  for (const sys::Fd& fd : look.fds) {
    auto copy = fd.duplicate();
    if (!copy) {
      refuse(c, copy.error().text());
      return false;
    }
    rams.push_back(std::move(*copy));
  }
  sys::Fd uffd = std::move(rams.front());
  rams.erase(rams.begin());
  auto vm = attacher_.attach(c.peer, look.identity, look.offer, std::move(uffd), std::move(rams),
                             others.ram);
  if (!vm) {
    refuse(c, vm.error().what);
    return false;
  }
  {
    const MutexLock lock((*vm)->facts.mutex);
    (*vm)->facts.hello_hazards = c.hazards;
    (*vm)->facts.capabilities = c.capabilities;
  }
  if (look.former && look.former->incoming_finished) {
    (*vm)->incoming_finished.store(true);
    if (Status noted = (*vm)->vm->note_flags(guest::kRecordIncomingFinished); !noted)
      log::error("vm {}: {}", (*vm)->vm->name(), noted.error().text());
  }
  refusals_.forget(c.peer.pid);
  vms_.add(*vm);
  events_.attached(*vm);
  const MutexLock lock(mutex_);
  c.former.reset();
  c.vm = *vm;
  c.stage = Stage::ready;
  c.deadline_ns = monotonic_ns() + kHandshakeNs;
  rf_attached answer{};
  std::memcpy(answer.instance, (*vm)->vm->record().instance, sizeof answer.instance);
  answer.pages = (*vm)->vm->pages().value;
  const std::array fds{(*vm)->vm->files().shared.get()};
  (*vm)->vm->fillings().agent_is_there(generation_);
  return send(c, answer, RF_ATTACHED, fds);
}

bool Agents::closes_another_of(const Connection& c) const {
  const MutexLock lock(mutex_);
  return std::ranges::any_of(connections_, [&](const Connection& other) {
    mutex_.is_held();
    return other.closing && other.peer.pid == c.peer.pid;
  });
}

Agents::Beside Agents::beside(uid_t account) {
  const std::vector<sys::IdRange> ids = ids_.ids_of(account);
  const auto is_owner = [&](uid_t user) {
    return std::ranges::any_of(ids, [&](const sys::IdRange& r) { return r.has(user); });
  };
  Beside beside;
  for (const uid_t user : vms_.users()) (is_owner(user) ? beside.of_owner : beside.of_others) += 1;
  for (const VmHandle& vm : vms_.all()) {
    const bool of_owner = is_owner(vm->vm->record().uid);
    (of_owner ? beside.ram.of_owner : beside.ram.of_others).value += vm->vm->pages().value;
  }
  return beside;
}

void Agents::on_ready(Connection& c, const VmHandle& vm) {
  {
    const MutexLock lock(mutex_);
    if (c.vm != vm) return;  // detached meanwhile
    c.stage = Stage::attached;
    c.deadline_ns = 0;
    const MutexLock facts(vm->facts.mutex);
    vm->facts.hello_hazards |= c.hazards;
    vm->facts.capabilities = c.capabilities;
    begin_commands(c);
  }
  vm->agent_ready.store(true);
  events_.agent_ready(vm);
  // An agent that knows no commands has never got one.
  if ((c.capabilities & RF_CAP_COMMANDS) == 0) events_.fenced(vm);
}

// The agent may still execute a command of an earlier daemon. No command is sent until the agent
// has answered the fence: then none is executed any more.
void Agents::begin_commands(Connection& c) {
  if ((c.capabilities & RF_CAP_COMMANDS) == 0) return;
  rf_bare fence{};
  if (send(c, fence, RF_FENCE)) c.commands = std::make_shared<CommandChannel>();
}

void Agents::end_commands(Connection& c) noexcept {
  if (c.commands) c.commands->close();
  c.commands.reset();
}

std::shared_ptr<guest::AgentPort> Agents::port(const AttachedVm& vm) {
  std::shared_ptr<guest::AgentPort> port;
  send_to(vm, [&](Connection& c) {
    mutex_.is_held();
    port = c.commands;
  });
  return port;
}

bool Agents::send_pool(AttachedVm& vm) {
  rf_bare message{};
  const std::array fds{vm.pool->descriptor().get()};
  send_to(vm, [&](Connection& c) {
    mutex_.is_held();
    if (vm.pool_sent || !c.commands) return;
    vm.pool_sent.store(send(c, message, RF_POOL, fds));
  });
  return vm.pool_sent;
}

bool Agents::welcome(Connection& c, std::uint16_t action, const std::uint8_t* instance, int fd) {
  rf_welcome answer{};
  answer.version = RF_VERSION_MAX;
  answer.action = action;
  answer.capabilities =
      RF_CAP_DISCARD | RF_CAP_BUFFERED | RF_CAP_CONSUMERS | RF_CAP_FILLS | RF_CAP_COMMANDS;
  if (instance != nullptr) std::memcpy(answer.instance, instance, sizeof answer.instance);
  const std::array fds{fd};
  return send(c, answer, RF_WELCOME, fd < 0 ? std::span<const int>{} : std::span<const int>(fds));
}

void Agents::refuse(Connection& c, std::string_view why) {
  complaints_.warn(c.peer.account, fmt::format("agent of pid {} (uid {}): refused: {}", c.peer.pid,
                                               c.peer.uid, why));
  if (!vms_.by_pid(c.peer.pid)) {
    WaitingAgent agent = as_waiting(c.peer, c.identity);
    agent.refused = why;
    refusals_.note(std::move(agent), c.peer.account, monotonic_ns());
  }
  rf_refused answer{};
  std::memcpy(answer.text, why.data(), std::min(why.size(), sizeof answer.text - 1));
  (void)send(c, answer, RF_REFUSED);
}

}  // namespace ramfold::daemon
