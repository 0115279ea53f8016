// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/message.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <cstring>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ramfold::sys {
namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail("socket path '" + path + "' must have 1 to 107 bytes", ENAMETOOLONG);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

Result<Message> receive(BorrowedFd socket, std::span<std::byte> buffer, int flags) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMessageFdsMax)> control{};
  iovec part{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket.get(), &header, flags | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  Message message;
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return message;
    if (errno == ECONNRESET) {
      message.outcome = Received::closed;
      return message;
    }
    return fail_errno("recvmsg");
  }
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      Fd owned(fd);
      if (message.fd_count < kMessageFdsMax) message.fds[message.fd_count++] = std::move(owned);
    }
  }
  message.outcome = n == 0 ? Received::closed : Received::message;
  message.size = static_cast<std::size_t>(n);
  message.truncated = (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  return message;
}

Status send(BorrowedFd socket, std::span<const std::byte> bytes, std::span<const int> fds,
            int flags) {
  if (fds.size() > kMessageFdsMax) return fail("too many descriptors in one message", EINVAL);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMessageFdsMax)> control{};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  ssize_t n = 0;
  do {
    n = ::sendmsg(socket.get(), &header, flags | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("sendmsg");
  return {};
}

Result<Fd> listen_seqpacket(const std::string& path, mode_t mode) {
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno("remove stale socket " + path);
  const mode_t before = ::umask(0777);
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address);
  const int error = errno;
  ::umask(before);
  if (bound != 0) return fail("bind " + path, error);
  if (::chmod(path.c_str(), mode) != 0) return fail_errno("chmod " + path);
  if (::listen(fd.get(), 128) != 0) return fail_errno("listen " + path);
  return fd;
}

Result<Fd> connect_seqpacket(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return fail_errno("connect " + path);
  }
  return fd;
}

Result<Peer> peer_of(BorrowedFd socket) {
  ucred cred{};
  socklen_t length = sizeof cred;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &cred, &length) != 0) {
    return fail_errno("SO_PEERCRED");
  }
  return Peer{cred.pid, cred.uid, cred.gid};
}

Result<Fd> peer_pidfd(BorrowedFd socket, pid_t pid) {
  int raw = -1;
  socklen_t length = sizeof raw;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &raw, &length) == 0) return Fd(raw);
  raw = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (raw < 0) return fail_errno("pidfd_open");
  return Fd(raw);
}

}  // namespace ramfold::sys
