// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/door.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {
namespace {

// Per turn, so that connected agents are served too.
constexpr unsigned kAtOnceMax = 2048;
constexpr std::uint64_t kRestNs = 200'000'000;
constexpr auto kNobody = static_cast<uid_t>(-1);

}  // namespace

Result<Door::Socket> Door::listen(const std::string& path, const std::string& group) {
  auto listener = sys::listen_seqpacket(path, 0600);
  if (!listener) return std::unexpected(listener.error());
  auto may_connect = sys::give_to_group(path, path, group, [](std::string_view line) {
    log::error("agents: {} (agent_group in the configuration)", line);
  });
  if (!may_connect) return std::unexpected(may_connect.error());
  return Socket{std::move(*listener), std::move(*may_connect)};
}

Status Door::open() {
  epoll_event event{EPOLLIN, {.ptr = nullptr}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket_.listener.get(), &event) != 0)
    return fail_errno("epoll_ctl");
  accepts_again_ns_ = 0;
  return {};
}

void Door::accept(const Receive& receive) {
  for (unsigned i = 0; i < kAtOnceMax; ++i) {
    sys::Fd socket(
        ::accept4(socket_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (sys::lacks_resources(errno)) return rest(errno);
      if (errno != EAGAIN) continue;  // the peer has gone already
      cannot_accept_said_ = false;
      return;
    }
    admit(std::move(socket), receive);
  }
}

void Door::admit(sys::Fd socket, const Receive& receive) {
  const auto peer = sys::peer_of(socket);
  const uid_t account = peer ? ids_.account_of(peer->uid) : kNobody;
  const auto give_up = [&] { receptionist_.close(std::move(socket), account); };
  if (!peer || peer->pid <= 0 || !may_connect(socket, *peer, account)) return give_up();
  auto pidfd = sys::peer_pidfd(socket, peer->pid);
  const auto start = procfs_.start_ticks(peer->pid);
  if (!pidfd || !start || has_ended(*pidfd)) return give_up();
  receive({std::move(socket), {peer->pid, peer->uid, account, *start, std::move(*pidfd)}});
}

// WELCOME gives the agent a device that makes userfaultfds for kernel faults. The host may forbid
// these for unprivileged users (vm.unprivileged_userfaultfd=0), so a user outside the group may not
// connect.
bool Door::may_connect(const sys::Fd& socket, const sys::Peer& peer, uid_t account) {
  if (sys::may_use(socket, peer, socket_.group)) return true;
  complaints_.warn(account, fmt::format("agent of pid {} (uid {}): not heard: its user is not in "
                                        "the group '{}' (agent_group); add it, and start its VM "
                                        "anew",
                                        peer.pid, peer.uid, socket_.group.name));
  return false;
}

// While connections wait, the listener stays readable and epoll would wake this thread again and
// again. So the listener leaves the epoll set until tend() adds it again.
void Door::rest(int code) {
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket_.listener.get(), nullptr);
  accepts_again_ns_ = monotonic_ns() + kRestNs;
  if (std::exchange(cannot_accept_said_, true)) return;
  log::error("agents cannot be accepted: {}: trying again", std::strerror(code));
}

void Door::tend(std::uint64_t now_ns) {
  if (accepts_again_ns_ != 0 && now_ns >= accepts_again_ns_) (void)open();
}

void Door::close() noexcept {
  // Waiting connections may hold descriptors whose closing can block, so the receptionist closes
  // them.
  ::shutdown(socket_.listener.get(), SHUT_RDWR);
  for (;;) {
    sys::Fd socket(
        ::accept4(socket_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    const auto peer = sys::peer_of(socket);
    receptionist_.close(std::move(socket), peer ? ids_.account_of(peer->uid) : kNobody);
  }
}

}  // namespace ramfold::daemon
