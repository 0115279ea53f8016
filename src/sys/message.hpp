// SPDX-License-Identifier: GPL-2.0-or-later
// Messages with descriptors over SOCK_SEQPACKET UNIX sockets. unix(7).
// Threads: free functions; a socket may be shared if its owner orders the calls.
#pragma once

#include <sys/types.h>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

// Most descriptors in one message. An offer has 17: a userfaultfd and 16 RAM files.
inline constexpr std::size_t kMessageFdsMax = 32;

enum class Received {
  message,
  nothing_yet,
  closed,
  not_received,  // from a Receptionist only
};

struct Message {
  Received outcome = Received::nothing_yet;
  std::size_t size = 0;    // bytes written to the buffer
  bool truncated = false;  // the bytes or the descriptors did not fit: treat the sender as hostile
  std::size_t fd_count = 0;
  std::array<Fd, kMessageFdsMax> fds;
};

// The error of accept(2) or recvmsg(2) says that no descriptor or no memory is left. The socket
// stays readable and the next call fails at once, so the caller must pause.
inline bool lacks_resources(int code) noexcept {
  return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM;
}

// Receives one message into `buffer`. The Message owns its descriptors, which are CLOEXEC. `flags`:
// MSG_DONTWAIT or 0.
Result<Message> receive(BorrowedFd socket, std::span<std::byte> buffer, int flags);
// Sends one message whole; EAGAIN under MSG_DONTWAIT is an Error with that code. Never raises
// SIGPIPE.
Status send(BorrowedFd socket, std::span<const std::byte> bytes, std::span<const int> fds,
            int flags);

// A listening SEQPACKET socket at `path` with `mode`; a stale one is replaced. ENAMETOOLONG: the
// path has more than 107 bytes.
Result<Fd> listen_seqpacket(const std::string& path, mode_t mode);
Result<Fd> connect_seqpacket(const std::string& path);
struct Peer {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
};
// The process that connected, as the kernel recorded it at connect(2).
Result<Peer> peer_of(BorrowedFd socket);
// A pidfd of the peer: SO_PEERPIDFD (6.5) where present, else pidfd_open on the recorded pid.
Result<Fd> peer_pidfd(BorrowedFd socket, pid_t pid);

}  // namespace ramfold::sys
