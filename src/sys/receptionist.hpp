// SPDX-License-Identifier: GPL-2.0-or-later
// Receives messages from a process that may be hostile. A descriptor of its FUSE file system is a
// trap: close(2) asks the server to flush, which waits for its answer uninterruptibly, SIGKILL
// included, and so does the end of whatever process holds the descriptor. A daemon that has one can
// be stopped by it for ever. So a message with descriptors is received by a child process, which
// looks at them and hands on only those that the kernel alone answers for; the others end with the
// child.
//
// Threads: one at a time. A child that is held by a trap stays until the trap's server dies; it
// holds nothing of ours but a copy of memory, and few of them are let exist.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "sys/fd.hpp"
#include "sys/message.hpp"

namespace ramfold::sys {

// A memory file or a userfaultfd: every call on it, and its close, is answered by the kernel alone.
bool is_kernels_own(BorrowedFd fd) noexcept;

class Receptionist {
 public:
  // Children that traps may hold: of one sender's user, and of all. Beyond them descriptors are not
  // received at all.
  static constexpr std::size_t kHeldOfUserMax = 2;
  static constexpr std::size_t kHeldMax = 64;

  Receptionist() = default;
  ~Receptionist();
  Receptionist(const Receptionist&) = delete;
  Receptionist& operator=(const Receptionist&) = delete;

  // As sys::receive with MSG_DONTWAIT, from a sender who runs as `uid`. Every descriptor of the
  // message is the kernel's own; one that was not, or more than fit, makes the message `truncated`
  // and gives it no descriptor at all.
  Result<Message> receive(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid);

  // Children that have not ended yet.
  std::size_t held() noexcept;

 private:
  struct Child {
    pid_t pid;
    uid_t uid;
  };
  bool has_room(uid_t uid) noexcept;
  Result<Message> receive_by_child(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid);

  std::vector<Child> children_;
};

}  // namespace ramfold::sys
