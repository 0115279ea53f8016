// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/receptionist.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

namespace ramfold::sys {
namespace {

// The child makes a handful of system calls, none of which waits: a host under load.
constexpr int kChildMs = 2000;

struct Peeked {
  Received outcome = Received::nothing_yet;
  bool has_descriptors = false;
};

// Without room for descriptors the kernel drops them itself, without a flush, and says so.
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

// The child: system calls only, as its parent has threads. Receives the message, looks at what came
// with it, and sends both on when all of it is the kernel's own; one byte otherwise.
[[noreturn]] void child_main(int socket, int reply, std::span<std::byte> buffer) {
  const int low = std::min(socket, reply);
  const int high = std::max(socket, reply);
  if (low > 0) ::syscall(SYS_close_range, 0u, static_cast<unsigned>(low) - 1, 0);
  if (high > low + 1) {
    ::syscall(SYS_close_range, static_cast<unsigned>(low) + 1, static_cast<unsigned>(high) - 1, 0);
  }
  ::syscall(SYS_close_range, static_cast<unsigned>(high) + 1, ~0u, 0);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMessageFdsMax)> control{};
  iovec part{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  ::close(socket);
  bool good = n > 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); n >= 0 && c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      good = is_kernels_own(BorrowedFd(fd)) && good;
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
  ::_exit(good ? 0 : 1);  // with a trap in hand, this is where it is held
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

Receptionist::~Receptionist() { (void)held(); }

std::size_t Receptionist::held() noexcept {
  std::erase_if(children_,
                [](const Child& child) { return ::waitpid(child.pid, nullptr, WNOHANG) != 0; });
  return children_.size();
}

bool Receptionist::has_room(uid_t uid) noexcept {
  const bool few = held() < kHeldMax;  // which also forgets those that ended
  const auto of_user = std::ranges::count(children_, uid, &Child::uid);
  return few && static_cast<std::size_t>(of_user) < kHeldOfUserMax;
}

Result<Message> Receptionist::receive(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid) {
  const auto peeked = peek(socket);
  if (!peeked) return std::unexpected(peeked.error());
  Message message;
  message.outcome = peeked->outcome;
  if (peeked->outcome != Received::message) return message;
  if (peeked->has_descriptors && has_room(uid)) return receive_by_child(socket, buffer, uid);
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
  children_.push_back({child, uid});
  theirs.reset();
  if (!is_readable(ours.get())) return hostile();
  auto message = sys::receive(ours, buffer, MSG_DONTWAIT);
  if (!message) return message;
  if (message->outcome != Received::message || message->fd_count == 0) return hostile();
  return message;
}

}  // namespace ramfold::sys
