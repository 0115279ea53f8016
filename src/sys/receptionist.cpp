// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/receptionist.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include "sys/close_all_but.hpp"

namespace ramfold::sys {
namespace {

// How long to wait for a child. It makes a few system calls, and none of them waits; the host may
// be under load.
constexpr int kChildMs = 2000;
constexpr std::size_t kScmMaxFd = 253;  // the kernel's SCM_MAX_FD
// More than the queue of any socket holds (net.core.wmem_max is some MiB on a host that was tuned).
constexpr unsigned kQueuedMax = 65'536;

struct Peeked {
  Received outcome = Received::nothing_yet;
  bool has_descriptors = false;
};

// Receives without room for descriptors. The kernel then drops the descriptors of a message in this
// thread, so a message that has some may only be peeked at.
Result<ssize_t> receive_plain(BorrowedFd socket, std::span<std::byte> buffer, int flags,
                              int& seen) {
  iovec part{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket.get(), &header, flags | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  seen = header.msg_flags;
  if (n < 0 && errno == ECONNRESET) return 0;
  if (n < 0) return fail_errno("recvmsg");
  return n;
}

Result<Peeked> peek(BorrowedFd socket) {
  std::array<std::byte, 1> first;
  int seen = 0;
  const auto n = receive_plain(socket, first, MSG_PEEK, seen);
  if (!n) {
    if (n.error().code == EAGAIN || n.error().code == EWOULDBLOCK) return Peeked{};
    return std::unexpected(n.error());
  }
  return Peeked{*n == 0 ? Received::closed : Received::message, (seen & MSG_CTRUNC) != 0};
}

// The child. It makes system calls only, because its parent has threads. It receives the message
// and looks at the descriptors. If the kernel alone answers for all of them, the child sends the
// message on with its descriptors; else it sends one byte.
[[noreturn]] void child_main(int socket, int reply, std::span<std::byte> buffer) {
  close_all_but(std::array{std::min(socket, reply), std::max(socket, reply)});
  // Room for as many descriptors as a message can carry. The kernel would drop further ones at
  // once, and that could hold this child before it has answered.
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kScmMaxFd)> control{};
  iovec part{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  ::close(socket);
  bool good = n > 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  std::size_t count = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); n >= 0 && c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      // The kernel would drop in the parent the descriptors for which the parent has no room. So a
      // message with more than that is not sent on.
      good = is_kernels_own(BorrowedFd(fd)) && ++count <= kMessageFdsMax && good;
    }
  }
  part.iov_len = n > 0 ? static_cast<std::size_t>(n) : 1;
  header.msg_flags = 0;
  if (!good) {
    header.msg_control = nullptr;
    header.msg_controllen = 0;
    part.iov_len = 1;
  }
  ::sendmsg(reply, &header, MSG_NOSIGNAL);
  ::close(reply);
  ::_exit(good ? 0 : 1);  // a child that has a trap is held here
}

bool is_readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  int n = 0;
  do {
    n = ::poll(&p, 1, kChildMs);
  } while (n < 0 && errno == EINTR);
  return n == 1;
}

Message hostile() {
  Message message;
  message.outcome = Received::message;
  message.truncated = true;
  return message;
}

}  // namespace

bool is_kernels_own(BorrowedFd fd) noexcept {
  if (::fcntl(fd.get(), F_GET_SEALS) >= 0) return true;  // only memory files have seals
  // "/proc/self/fd/N" by hand: this runs in the child of a process with threads.
  std::array<char, 32> path{"/proc/self/fd/"};
  std::size_t digits = 1;
  for (int rest = fd.get(); rest >= 10; rest /= 10) ++digits;
  const std::size_t begin = std::strlen(path.data());
  for (int rest = fd.get(); digits > 0; rest /= 10)
    path[begin + --digits] = static_cast<char>('0' + rest % 10);
  std::array<char, 64> link;
  const ssize_t n = ::readlink(path.data(), link.data(), link.size());
  return n > 0 &&
         std::string_view(link.data(), static_cast<std::size_t>(n)) == "anon_inode:[userfaultfd]";
}

Receptionist::~Receptionist() {
  // Without a bound: this process closes the sockets that are left in waiting_, and that may hold
  // it.
  while (!waiting_.empty() && close_by_child(waiting_.front().uid, Bound::none)) {
  }
  (void)held();
}

std::size_t Receptionist::held() noexcept {
  std::erase_if(children_,
                [](const Child& child) { return ::waitpid(child.pid, nullptr, WNOHANG) != 0; });
  return children_.size();
}

bool Receptionist::has_room(uid_t uid, bool closes) noexcept {
  (void)held();  // forgets those that ended
  std::size_t all = 0;
  std::size_t of_user = 0;
  for (const Child& child : children_) {
    if (child.closes != closes) continue;
    ++all;
    of_user += child.uid == uid ? 1 : 0;
  }
  return all < kHeldMax && of_user < kHeldOfUserMax;
}

Result<Message> Receptionist::receive(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid,
                                      Descriptors descriptors) {
  const auto peeked = peek(socket);
  if (!peeked) return std::unexpected(peeked.error());
  Message message;
  message.outcome = peeked->outcome;
  if (peeked->outcome != Received::message) return message;
  if (peeked->has_descriptors) {
    if (descriptors == Descriptors::wanted && has_room(uid, false))
      return receive_by_child(socket, buffer, uid);
    message.outcome = Received::not_received;
    return message;
  }
  int seen = 0;
  const auto n = receive_plain(socket, buffer, 0, seen);
  if (!n) return std::unexpected(n.error());
  message.size = static_cast<std::size_t>(*n);
  message.truncated = (seen & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  return message;
}

Result<Message> Receptionist::receive_by_child(BorrowedFd socket, std::span<std::byte> buffer,
                                               uid_t uid) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_errno("socketpair");
  const Fd ours(ends[0]);
  Fd theirs(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) child_main(socket.get(), theirs.get(), buffer);
  children_.push_back({child, uid, false});
  theirs.reset();
  if (!is_readable(ours.get())) return hostile();
  auto message = sys::receive(ours, buffer, MSG_DONTWAIT);
  if (!message) return message;
  if (message->outcome != Received::message || message->fd_count == 0) return hostile();
  return message;
}

void Receptionist::close(Fd socket, uid_t uid) {
  // After this, nothing more arrives in the queue.
  ::shutdown(socket.get(), SHUT_RDWR);
  std::array<std::byte, 1> cut;
  for (unsigned i = 0; i < kQueuedMax; ++i) {
    const auto next = peek(socket);
    if (!next || next->outcome != Received::message) return;
    if (next->has_descriptors) break;
    int seen = 0;
    if (!receive_plain(socket, cut, 0, seen)) return;
  }
  waiting_.push_back({std::move(socket), uid});
  const auto of_user = std::ranges::count(waiting_, uid, &Waiting::uid);
  const bool many =
      static_cast<std::size_t>(of_user) > kWaitingOfUserMax || waiting_.size() > kWaitingMax;
  (void)close_by_child(uid, many ? Bound::none : Bound::held);
}

void Receptionist::tend() {
  (void)held();
  std::vector<uid_t> users;
  for (const Waiting& one : waiting_) {
    if (std::ranges::find(users, one.uid) == users.end()) users.push_back(one.uid);
  }
  for (const uid_t uid : users) (void)close_by_child(uid);
}

bool Receptionist::close_by_child(uid_t uid, Bound bound) {
  if (bound == Bound::held && !has_room(uid, true)) return false;
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return false;
  Fd ours(ends[0]);
  Fd theirs(ends[1]);
  std::vector<int> kept{theirs.get()};
  for (const Waiting& one : waiting_) {
    if (one.uid == uid) kept.push_back(one.socket.get());
  }
  std::ranges::sort(kept);
  const pid_t child = ::fork();
  if (child < 0) return false;
  if (child == 0) {
    close_all_but(kept);
    char byte = 0;
    ::send(theirs.get(), &byte, 1, MSG_NOSIGNAL);
    // Waits until the parent has closed its sockets. Then this child drops the last references, and
    // a trap holds the child.
    (void)!::read(theirs.get(), &byte, 1);
    ::_exit(0);
  }
  children_.push_back({child, uid, true});
  theirs.reset();
  // Waits until the child has closed the sockets of other users. Otherwise it could drop the last
  // reference to one of those.
  (void)is_readable(ours.get());
  std::erase_if(waiting_, [uid](const Waiting& one) { return one.uid == uid; });
  return true;
}

}  // namespace ramfold::sys
