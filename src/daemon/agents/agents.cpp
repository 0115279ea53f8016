// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/agents.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "base/owner_share.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "guest/agent_messages.hpp"

namespace ramfold::daemon {
namespace {

constexpr int kEventsMax = 64;
constexpr int kTickMs = 500;
constexpr int kClosingTickMs = 2;  // a run takes much less than a millisecond
constexpr int kPutOffTickMs = 20;
constexpr std::uint64_t kTendEveryNs = 100'000'000;
constexpr std::uint32_t kUnfoldsAtOnceMax = 16;  // for each a QEMU thread waits

std::string agent_text(const AgentPeer& peer) {
  return fmt::format("agent of pid {} (uid {})", peer.pid, peer.uid);
}

constexpr std::string_view kClosingMuch =
    "descriptors of this user are not received any more: earlier ones cannot be closed; end the "
    "process that made them, or what holds its memory map: a file system that does not answer?";

// Closes descriptors that came with a message and are not used. Closing a userfaultfd can wait for
// the process that made it, which may be another one than the sender.
void drop_apart(sys::Message& message, uid_t account) {
  if (message.fd_count == 0) return;
  using Fds = std::array<sys::Fd, sys::kMessageFdsMax>;
  let_go_apart(std::make_unique<Fds>(std::move(message.fds)), account);
  message.fd_count = 0;
}

std::shared_ptr<const Former> former_of(const AttachedVm& vm, uid_t account) {
  auto former = std::make_unique<Former>();
  former->incoming_finished = vm.incoming_finished;
  if (auto copy = vm.vm->files().uffd.duplicate()) former->uffd = std::move(*copy);
  return share_apart(std::move(former), account);
}

}  // namespace

Result<std::unique_ptr<Agents>> Agents::make(const std::string& socket, const std::string& group,
                                             std::uint32_t generation, sys::Fd userfault_device,
                                             const sys::Procfs& procfs, VmSet& vms,
                                             Attacher& attacher, AgentEvents& events) {
  auto listening = Door::listen(socket, group);
  if (!listening) return std::unexpected(listening.error());
  sys::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  auto desk = LookDesk::make();
  if (!desk) return std::unexpected(desk.error());
  if (!epoll) return fail_errno("epoll");
  epoll_event event{EPOLLIN, {.ptr = nullptr}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, (*desk)->wake_fd(), &event) != 0)
    return fail_errno("epoll_ctl");
  std::unique_ptr<Agents> agents(
      new Agents(std::move(*listening), std::move(epoll), std::move(*desk), generation,
                 std::move(userfault_device), procfs, vms, attacher, events));
  if (Status opened = agents->door_.open(); !opened) return std::unexpected(opened.error());
  return agents;
}

Agents::Agents(Door::Socket listening, sys::Fd epoll, std::shared_ptr<LookDesk> desk,
               std::uint32_t generation, sys::Fd device, const sys::Procfs& procfs, VmSet& vms,
               Attacher& attacher, AgentEvents& events)
    : epoll_(std::move(epoll)),
      desk_(std::move(desk)),
      generation_(generation),
      device_(std::move(device)),
      procfs_(procfs),
      vms_(vms),
      attacher_(attacher),
      events_(events),
      door_(std::move(listening), epoll_, procfs, ids_, receptionist_, complaints_) {}

Agents::~Agents() { stop(); }

Status Agents::begin() {
  if (thread_ || stopping_.load()) return {};
  auto thread = sys::Thread::start("rf-agents", [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void Agents::stop() noexcept {
  if (stopping_.exchange(true)) return;
  desk_->poke();
  thread_.join();
  door_.close();
  const MutexLock lock(mutex_);
  for (Connection& c : connections_) {
    end_commands(c);
    receptionist_.close(std::move(c.socket), c.peer.account);
  }
  connections_.clear();
}

void Agents::run() {
  std::array<epoll_event, kEventsMax> events;
  while (!stopping_.load()) {
    const int tick_ms = any_closing_ ? kClosingTickMs : any_put_off_ ? kPutOffTickMs : kTickMs;
    const int n = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, tick_ms);
    for (int i = 0; i < n; ++i) {
      auto* c = static_cast<Connection*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (c == nullptr) {
        door_.accept([this](Door::Visitor visitor) { enter(std::move(visitor)); });
        continue;
      }
      // One message per turn: an agent that sends without a pause does not block the others.
      if (!receive(*c)) close(*c);
    }
    desk_->drain();
    take_looks();
    hear_put_off();
    close_late();
    close_quiet();
    const std::uint64_t now = monotonic_ns();
    door_.tend(now);
    if (now - tended_ns_ < kTendEveryNs) continue;
    receptionist_.tend();
    tended_ns_ = now;
  }
}

bool Agents::has_place(const AgentPeer& peer) {
  std::size_t of_process = 0;
  std::size_t of_user = 0;
  for (const Connection& c : connections_) {
    of_process += c.peer.pid == peer.pid ? 1 : 0;
    of_user += c.peer.account == peer.account ? 1 : 0;
  }
  constexpr OwnerShare kShare(kConnectionsMax, OwnerShare::kHalf);
  const char* const whose = of_process >= kOfProcessMax              ? "its process"
                            : connections_.size() >= kConnectionsMax ? "all agents together"
                            : !kShare.allows(connections_.size() - of_user, of_user, 1) ? "its user"
                                                                                        : nullptr;
  if (whose == nullptr) return true;
  complaints_.warn(peer.account,
                   fmt::format("{}: refused: too many connections of {}", agent_text(peer), whose));
  return false;
}

void Agents::enter(Door::Visitor visitor) {
  const MutexLock lock(mutex_);
  const uid_t account = visitor.peer.account;
  if (!has_place(visitor.peer)) return receptionist_.close(std::move(visitor.socket), account);
  Connection& c = connections_.emplace_back();
  c.socket = std::move(visitor.socket);
  c.peer = std::move(visitor.peer);
  c.identity.name = fmt::format("qemu-{}", c.peer.pid);
  c.deadline_ns = monotonic_ns() + kHandshakeNs;
  epoll_event event{EPOLLIN, {.ptr = &c}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, c.socket.get(), &event) != 0) {
    receptionist_.close(std::move(c.socket), account);
    connections_.pop_back();
  }
}

// Adds the connection to the epoll set, or removes it. A connection that is not read must not stay
// in the set: epoll would report its hang-up again and again.
void Agents::hear(Connection& c, bool heard) {
  if (c.heard == heard) return;
  epoll_event event{EPOLLIN, {.ptr = &c}};
  const int change = heard ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
  (void)::epoll_ctl(epoll_.get(), change, c.socket.get(), &event);
  c.heard = heard;
}

bool Agents::receive(Connection& c) {
  // An earlier event of this turn may have closed the connection or begun a look.
  if (!c.heard) return true;
  Stage stage{};
  {
    const MutexLock lock(mutex_);
    stage = c.stage;
  }
  using Descriptors = sys::Receptionist::Descriptors;
  const bool closing_much = is_closing_much(c.peer.account);
  const bool wanted = stage == Stage::offer && !closing_much;
  std::array<std::byte, RF_MESSAGE_MAX> buffer;
  auto message = receptionist_.receive(c.socket, buffer, c.peer.account,
                                       wanted ? Descriptors::wanted : Descriptors::unwanted);
  if (!message || message->outcome == sys::Received::closed) return false;
  if (message->outcome == sys::Received::nothing_yet) return true;
  if (message->outcome == sys::Received::not_received)
    return on_not_received(c, stage, closing_much);
  if (message->truncated) {
    refuse(c,
           "a message was too long, or came with a descriptor that is no memory file and no "
           "userfaultfd");
    return false;
  }
  const bool good = handle(c, *message, std::span(buffer).first(message->size));
  drop_apart(*message, c.peer.account);
  return good;
}

bool Agents::handle(Connection& c, sys::Message& message, std::span<const std::byte> bytes) {
  const auto parsed = guest::parse(bytes, message.fd_count);
  if (!parsed) {
    refuse(c, parsed.error().what);
    return false;
  }
  // Operator's commands change `vm` and `stage` on other threads.
  VmHandle vm;
  Stage stage{};
  {
    const MutexLock lock(mutex_);
    vm = c.vm;
    stage = c.stage;
  }
  struct Handle {
    Agents& agents;
    Connection& c;
    sys::Message& message;
    const VmHandle& vm;
    Stage stage;
    bool operator()(const guest::Hello& m) {
      return stage == Stage::hello && agents.on_hello(c, m);
    }
    bool operator()(const guest::Offer& m) {
      return stage == Stage::offer && agents.on_offer(c, m.wire, message);
    }
    bool operator()(const guest::Ready&) {
      if (vm && stage == Stage::ready) agents.on_ready(c, vm);
      return true;
    }
    bool operator()(const guest::Hold&) { return look(); }
    bool operator()(const guest::Changed&) { return look(); }
    bool operator()(const guest::Unfold& m) {
      return !vm || stage != Stage::attached || agents.on_unfold(c, vm, m.wire);
    }
    bool operator()(const guest::Fenced& m) {
      {
        const MutexLock lock(agents.mutex_);
        if (!c.commands || m.wire.h.generation != agents.generation_) return true;
        c.commands->open(c.socket, agents.generation_);
      }
      if (vm) agents.events_.fenced(vm);
      return true;
    }
    bool operator()(const guest::Answered& m) {
      const MutexLock lock(agents.mutex_);
      if (c.commands) c.commands->answered(m.wire);
      return true;
    }
    bool operator()(const guest::Skipped&) { return true; }
    bool look() {
      if (vm) agents.events_.look_again(vm);
      return true;
    }
  };
  return std::visit(Handle{*this, c, message, vm, stage}, *parsed);
}

bool Agents::on_unfold(Connection& c, const VmHandle& vm, const rf_unfold& message) {
  if (vm->unfolds_asked.fetch_add(1) < kUnfoldsAtOnceMax) {
    events_.unfold_wanted(vm, message.token, message.hazard);
    return true;
  }
  vm->unfolds_asked.fetch_sub(1);
  complaints_.warn(c.peer.account, agent_text(c.peer) + ": asks for too much unfolding at once");
  rf_unfolded answer{};
  answer.token = message.token;
  return send(c, answer, RF_UNFOLDED);
}

void Agents::close(Connection& c) {
  const MutexLock lock(mutex_);
  if (c.closing) return;
  if (c.vm && (c.stage == Stage::attached || c.stage == Stage::ready)) {
    // No agent stops dangerous calls now, so nothing may be folded until the agent is back.
    c.vm->agent_ready.store(false);
    c.vm->pool_sent.store(false);
    c.vm->vm->gate().close();
  }
  hear(c, false);
  end_commands(c);
  c.look = nullptr;
  c.deadline_ns = 0;
  c.closing = any_closing_ = true;
}

// Closes connections whose VM has no run under way. For the agent, the end of the connection means
// that no run is under way, so the socket stays open until this is true. The VM's process can hold
// a run up; this thread does not wait for it but tries again later.
void Agents::close_quiet() {
  if (!any_closing_) return;
  any_closing_ = false;
  const MutexLock lock(mutex_);
  for (auto c = connections_.begin(); c != connections_.end();) {
    if (!c->closing || (c->vm && !c->vm->vm->gate().is_drained())) {
      any_closing_ = any_closing_ || c->closing;
      ++c;
      continue;
    }
    // Fills of pages go on after this. So the agent must not take the end of this connection for
    // the death of the daemon.
    if (c->vm && (c->stage == Stage::attached || c->stage == Stage::ready)) {
      c->vm->vm->fillings().agent_is_away();
    }
    receptionist_.close(std::move(c->socket), c->peer.account);
    c = connections_.erase(c);
  }
}

void Agents::close_late() {
  const std::uint64_t now = monotonic_ns();
  std::vector<Connection*> late;
  {
    const MutexLock lock(mutex_);
    for (Connection& c : connections_) {
      if (c.deadline_ns != 0 && now > c.deadline_ns) late.push_back(&c);
    }
  }
  for (Connection* c : late) {
    if (c->put_off) {
      refuse(*c, kClosingMuch);
    } else {
      const char* const why =
          c->look ? ": its process does not let itself be looked at" : ": silent in its handshake";
      complaints_.warn(c->peer.account, agent_text(c->peer) + why + ", connection closed");
    }
    close(*c);
  }
}

bool Agents::send_bytes(const Connection& c, std::span<const std::byte> bytes,
                        std::span<const int> fds) {
  // Never waits for an agent that does not read: a message that finds no room in the socket is
  // dropped.
  return sys::send(c.socket, bytes, fds, MSG_DONTWAIT).has_value();
}

void Agents::send_to(const AttachedVm& vm, const std::function<void(Connection&)>& f) {
  const MutexLock lock(mutex_);
  for (Connection& c : connections_) {
    if (c.vm.get() == &vm && !c.closing) f(c);
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

void Agents::send_unfolding(const AttachedVm& vm, std::uint32_t token, std::uint64_t done,
                            std::uint64_t all) {
  send_to(vm, [&](Connection& c) {
    rf_unfolding news{};
    news.token = token;
    news.done = done;
    news.all = all;
    (void)send(c, news, RF_UNFOLDING, {}, RF_FLAG_SKIPPABLE);
  });
}

void Agents::send_detached(const AttachedVm& vm, Afterwards afterwards) {
  send_to(vm, [&](Connection& c) {
    mutex_.is_held();
    rf_bare message{};
    end_commands(c);
    (void)send(c, message, RF_DETACHED);
    c.former = afterwards == Afterwards::attached_anew ? former_of(vm, c.peer.account) : nullptr;
    c.vm.reset();
    c.folded = false;
    c.stage = Stage::waiting;
    c.deadline_ns = 0;
  });
}

std::vector<WaitingAgent> Agents::waiting() {
  std::vector<WaitingAgent> result = refusals_.all(procfs_, monotonic_ns());
  const MutexLock lock(mutex_);
  for (const Connection& c : connections_) {
    if (c.stage != Stage::waiting || c.closing) continue;
    result.push_back(as_waiting(c.peer, c.identity));
  }
  return result;
}

}  // namespace ramfold::daemon
