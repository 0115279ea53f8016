// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents.hpp"

#include <algorithm>
#include <cstring>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/clock.hpp"
#include "guest/agent_messages.hpp"
#include "guest/attach_check.hpp"

namespace ramfold::daemon {
namespace {

constexpr int kEventsMax = 64;
constexpr int kTickMs = 500;

bool is_zero(const std::uint8_t (&instance)[16]) {
  return std::all_of(std::begin(instance), std::end(instance), [](std::uint8_t b) { return b == 0; });
}

}  // namespace

Result<std::unique_ptr<Agents>> Agents::start(const std::string& socket, std::uint32_t generation,
                                              sys::Fd userfault_device, const sys::Procfs& procfs, VmSet& vms,
                                              Attacher& attacher, AgentEvents& events) {
  // Any user's QEMU may knock: who it is, the kernel tells.
  auto listener = sys::listen_seqpacket(socket, 0666);
  if (!listener) return std::unexpected(listener.error());
  sys::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  sys::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll || !wake) return fail_errno("epoll");
  epoll_event listen_event{EPOLLIN, {.ptr = nullptr}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener->get(), &listen_event) != 0 ||
      ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &listen_event) != 0) {
    return fail_errno("epoll_ctl");
  }
  std::unique_ptr<Agents> agents(new Agents(std::move(*listener), std::move(epoll), std::move(wake), generation,
                                            std::move(userfault_device), procfs, vms, attacher, events));
  agents->thread_ = std::thread([a = agents.get()] { a->run(); });
  ::pthread_setname_np(agents->thread_.native_handle(), "rf-agents");
  return agents;
}

Agents::Agents(sys::Fd listener, sys::Fd epoll, sys::Fd wake, std::uint32_t generation, sys::Fd device,
               const sys::Procfs& procfs, VmSet& vms, Attacher& attacher, AgentEvents& events)
    : listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      generation_(generation),
      device_(std::move(device)),
      procfs_(procfs),
      vms_(vms),
      attacher_(attacher),
      events_(events) {}

Agents::~Agents() { stop(); }

void Agents::stop() noexcept {
  stopping_.store(true);
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
}

void Agents::run() {
  std::array<epoll_event, kEventsMax> events;
  while (!stopping_.load()) {
    const int n = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, kTickMs);
    for (int i = 0; i < n; ++i) {
      auto* c = static_cast<Connection*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (c == nullptr) {
        accept_all();
        continue;
      }
      // One message a turn: an agent that never stops talking does not keep the others waiting.
      if (!receive(*c)) close(*c);
    }
    close_late();
  }
}

void Agents::accept_all() {
  for (;;) {
    sys::Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    const auto peer = sys::peer_of(socket);
    if (!peer || peer->pid <= 0) continue;
    auto pidfd = sys::peer_pidfd(socket, peer->pid);
    const auto start = procfs_.start_ticks(peer->pid);
    if (!pidfd || !start) continue;
    const std::lock_guard lock(mutex_);
    const auto same = std::count_if(connections_.begin(), connections_.end(),
                                    [&](const Connection& c) { return c.peer.pid == peer->pid; });
    if (connections_.size() >= kConnectionsMax || same >= 2) {
      spdlog::warn("agent of pid {}: too many connections", peer->pid);
      continue;
    }
    Connection& c = connections_.emplace_back();
    c.socket = std::move(socket);
    c.peer = {peer->pid, peer->uid, *start, std::move(*pidfd)};
    c.deadline_ns = monotonic_ns() + kHandshakeNs;
    epoll_event event{EPOLLIN, {.ptr = &c}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, c.socket.get(), &event) != 0) connections_.pop_back();
  }
}

bool Agents::receive(Connection& c) {
  std::array<std::byte, RF_MESSAGE_MAX> buffer;
  auto message = sys::receive(c.socket, buffer, MSG_DONTWAIT);
  if (!message || message->outcome == sys::Received::closed) return false;
  if (message->outcome == sys::Received::nothing_yet) return true;
  if (message->truncated) {
    refuse(c, "a message was too long");
    return false;
  }
  const auto parsed = guest::parse(std::span(buffer).first(message->size), message->fd_count);
  if (!parsed) {
    refuse(c, parsed.error().what);
    return false;
  }
  // The operator's commands move vm and stage from other threads.
  VmHandle vm;
  Stage stage{};
  {
    const std::lock_guard lock(mutex_);
    vm = c.vm;
    stage = c.stage;
  }
  struct Handle {
    Agents& agents;
    Connection& c;
    sys::Message& message;
    const VmHandle& vm;
    Stage stage;
    bool operator()(const guest::Hello& m) { return stage == Stage::hello && agents.on_hello(c, m); }
    bool operator()(const guest::Offer& m) { return stage == Stage::offer && agents.on_offer(c, m.wire, message); }
    bool operator()(const guest::Ready&) {
      if (vm && stage == Stage::ready) agents.on_ready(c, vm);
      return true;
    }
    bool operator()(const guest::Hold&) { return look(); }
    bool operator()(const guest::Changed&) { return look(); }
    bool operator()(const guest::Unfold& m) {
      if (vm && stage == Stage::attached) agents.events_.unfold_wanted(vm, m.wire.token, m.wire.hazard);
      return true;
    }
    bool operator()(const guest::Pong&) { return true; }
    bool operator()(const guest::Skipped&) { return true; }
    bool look() {
      if (vm) agents.events_.look_again(vm);
      return true;
    }
  };
  return std::visit(Handle{*this, c, *message, vm, stage}, *parsed);
}

bool Agents::on_hello(Connection& c, const guest::Hello& message) {
  const rf_hello& hello = message.wire;
  if (message.version == 0) {
    refuse(c, "agent and daemon are of different versions: restart the VM with this version's agent");
    return false;
  }
  {
    const std::lock_guard lock(mutex_);
    c.name = identify(procfs_, c.peer.pid).name;
    c.hazards = hello.hazards;
    c.capabilities = hello.capabilities;
  }
  VmHandle vm = vms_.by_pid(c.peer.pid);
  if (vm && vm->detached) vm = nullptr;
  // A daemon that died between the keeper's hand-over and RF_ATTACHED left a VM that its agent does
  // not know, and one that had no keeper attached it anew: of neither was anything folded.
  const bool other =
      vm && std::memcmp(vm->vm->record().instance, hello.instance, sizeof hello.instance) != 0;
  if (other && hello.folded == 0 && events_.forget_unused(vm)) vm = nullptr;
  if (!vm) {
    const std::lock_guard lock(mutex_);
    c.folded = hello.folded != 0;
    if (c.folded) {
      spdlog::error(
          "vm {} (pid {}): its pages were folded by a daemon that left nothing of it here: they "
          "wait, and "
          "what touches them",
          c.name, c.peer.pid);
    } else if (events_.wanted(c.peer)) {
      return invite_now(c);
    }
    c.stage = Stage::waiting;
    c.deadline_ns = 0;
    return welcome(c, RF_ACTION_WAIT, nullptr, -1);
  }
  const guest::VmRecord& record = vm->vm->record();
  if (record.start_time != c.peer.start_ticks || is_zero(hello.instance) ||
      std::memcmp(record.instance, hello.instance, sizeof record.instance) != 0) {
    refuse(c, "this process is attached already, by another agent");
    return false;
  }
  const std::lock_guard lock(mutex_);
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

bool Agents::on_offer(Connection& c, const rf_offer& offer, sys::Message& message) {
  if (vms_.by_pid(c.peer.pid)) return false;
  const std::lock_guard offers(offers_mutex_);
  if (!events_.wanted(c.peer)) {  // no longer
    const std::lock_guard lock(mutex_);
    c.stage = Stage::waiting;
    c.deadline_ns = 0;
    return welcome(c, RF_ACTION_WAIT, nullptr, -1);
  }
  const auto checked = guest::check_offer(offer, c.peer.pid, std::span(message.fds).first(message.fd_count), procfs_);
  if (!checked) {
    refuse(c, checked.error().what);
    return false;
  }
  std::vector<sys::Fd> rams;
  for (std::size_t i = 1; i < message.fd_count; ++i) rams.push_back(std::move(message.fds[i]));
  auto vm = attacher_.attach(c.peer, offer, checked->blocks, std::move(message.fds[0]), std::move(rams));
  if (!vm) {
    spdlog::error("vm {} (pid {}): not attached: {}", c.name, c.peer.pid, vm.error().text());
    refuse(c, vm.error().what);
    return false;
  }
  {
    const std::lock_guard lock((*vm)->facts.mutex);
    (*vm)->facts.hello_hazards = c.hazards;
    (*vm)->facts.capabilities = c.capabilities;
  }
  vms_.add(*vm);
  events_.attached(*vm);
  const std::lock_guard lock(mutex_);
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

void Agents::on_ready(Connection& c, const VmHandle& vm) {
  {
    const std::lock_guard lock(mutex_);
    if (c.vm != vm) return;  // detached meanwhile
    c.stage = Stage::attached;
    c.deadline_ns = 0;
    const std::lock_guard facts(vm->facts.mutex);
    vm->facts.hello_hazards |= c.hazards;
    vm->facts.capabilities = c.capabilities;
  }
  vm->agent_ready.store(true);
  events_.agent_ready(vm);
}

void Agents::close(Connection& c) {
  VmHandle vm;
  {
    const std::lock_guard lock(mutex_);
    if (c.stage == Stage::attached || c.stage == Stage::ready) vm = c.vm;
  }
  if (vm) {
    // Nobody holds hazards back any more: nothing may leave until the agent is back. It takes the end of
    // the connection to mean that no run is under way, so that must be so before the socket closes.
    vm->agent_ready.store(false);
    vm->vm->gate().close();
    vm->vm->gate().drain();
    // Its fills go on, and what says so may not look like what a dead daemon left.
    vm->vm->fillings().agent_is_away();
  }
  const std::lock_guard lock(mutex_);
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, c.socket.get(), nullptr);
  connections_.remove_if([&](const Connection& other) { return &other == &c; });
}

void Agents::close_late() {
  const std::uint64_t now = monotonic_ns();
  std::vector<Connection*> late;
  {
    const std::lock_guard lock(mutex_);
    for (Connection& c : connections_) {
      if (c.deadline_ns != 0 && now > c.deadline_ns) late.push_back(&c);
    }
  }
  for (Connection* c : late) {
    spdlog::warn("agent of pid {}: silent in its handshake, connection closed", c->peer.pid);
    close(*c);
  }
}

bool Agents::welcome(Connection& c, std::uint16_t action, const std::uint8_t* instance, int fd) {
  rf_welcome answer{};
  answer.version = RF_VERSION_MAX;
  answer.action = action;
  answer.capabilities = RF_CAP_DISCARD | RF_CAP_BUFFERED | RF_CAP_CONSUMERS | RF_CAP_FILLS;
  if (instance != nullptr) std::memcpy(answer.instance, instance, sizeof answer.instance);
  const std::array fds{fd};
  return send(c, answer, RF_WELCOME, fd < 0 ? std::span<const int>{} : std::span<const int>(fds));
}

void Agents::refuse(Connection& c, std::string_view why) {
  spdlog::warn("agent of pid {} (uid {}): refused: {}", c.peer.pid, c.peer.uid, why);
  rf_refused answer{};
  std::memcpy(answer.text, why.data(), std::min(why.size(), sizeof answer.text - 1));
  (void)send(c, answer, RF_REFUSED);
}

template <typename Message>
bool Agents::send(Connection& c, Message& message, std::uint16_t type, std::span<const int> fds) {
  message.h = {RF_MAGIC, type, 0, sizeof message, generation_};
  // An agent that does not read is dropped; nobody waits for it.
  return sys::send(c.socket, std::as_bytes(std::span(&message, 1)), fds, MSG_DONTWAIT).has_value();
}

void Agents::send_to(const AttachedVm& vm, const std::function<void(Connection&)>& f) {
  const std::lock_guard lock(mutex_);
  for (Connection& c : connections_) {
    if (c.vm.get() == &vm) f(c);
  }
}

void Agents::send_unfolded(const AttachedVm& vm, std::uint32_t token, bool ok) {
  send_to(vm, [&](Connection& c) {
    rf_unfolded answer{};
    answer.token = token;
    answer.ok = ok ? 1 : 0;
    (void)send(c, answer, RF_UNFOLDED);
  });
}

void Agents::send_detached(const AttachedVm& vm) {
  send_to(vm, [&](Connection& c) {
    rf_ping message{};
    (void)send(c, message, RF_DETACHED);
    c.vm.reset();
    c.folded = false;
    c.stage = Stage::waiting;
    c.deadline_ns = 0;
  });
}

std::vector<WaitingAgent> Agents::waiting() const {
  std::vector<WaitingAgent> result;
  const std::lock_guard lock(mutex_);
  for (const Connection& c : connections_) {
    if (c.stage == Stage::waiting) result.push_back({c.peer.pid, c.peer.uid, c.name});
  }
  return result;
}

bool Agents::invite(pid_t pid) {
  const std::lock_guard lock(mutex_);
  for (Connection& c : connections_) {
    if (c.stage == Stage::waiting && c.peer.pid == pid) return !c.folded && invite_now(c);
  }
  return false;
}

}  // namespace ramfold::daemon
