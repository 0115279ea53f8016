// SPDX-License-Identifier: GPL-2.0-or-later
// Receives messages from a process that may be hostile. A descriptor of that process's FUSE file
// system is a trap: close(2) asks the file system's server to flush, and the process that drops the
// last reference waits for the server's answer, without end and even against SIGKILL. When pages of
// the file are dirty, a descriptor that was never received is a trap too: for a process that
// receives its message without room for descriptors, and for a process that closes the socket in
// whose queue the message lies.
//
// So a child process receives each message with descriptors. It looks at them, and sends on only
// descriptors for which the kernel alone answers. A child also closes each socket that has such
// messages in its queue. A trap then holds the child, not the daemon.
//
// Threads: one at a time. A held child stays until the trap's server dies. It has no descriptor of
// the daemon's, its memory is freed before its descriptors are closed, and the number of children
// is bounded.
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
  // Most children that have not ended: for one sender's user, and for all. Beyond that no
  // descriptors are received, and sockets wait to be closed.
  static constexpr std::size_t kHeldOfUserMax = 2;
  static constexpr std::size_t kHeldMax = 64;
  // Most sockets that wait to be closed: for one user, and for all. Beyond that a child is started
  // in spite of the bounds on children: a child costs little, and the daemon needs its descriptors.
  static constexpr std::size_t kWaitingOfUserMax = 256;
  static constexpr std::size_t kWaitingMax = 4096;

  Receptionist() = default;
  ~Receptionist();
  Receptionist(const Receptionist&) = delete;
  Receptionist& operator=(const Receptionist&) = delete;

  // As sys::receive with MSG_DONTWAIT, from a sender who runs as `uid`. is_kernels_own() holds for
  // every descriptor of the result. If it does not hold for one, or if there are more than
  // kMessageFdsMax, the message is `truncated` and has no descriptor. Received::not_received: a
  // message with descriptors stays in the queue, because no child may be started, or because the
  // caller wants none.
  enum class Descriptors : bool { unwanted, wanted };
  Result<Message> receive(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid,
                          Descriptors descriptors);

  // Closes a socket to which a hostile process could send. The peer sees the end at once. If
  // descriptors lie in the queue and no child may be started, the socket waits for tend().
  void close(Fd socket, uid_t uid);
  // Forgets children that have ended, and starts children that close the sockets that wait.
  void tend();

  // Children that have not ended yet, and sockets that wait to be closed.
  std::size_t held() noexcept;
  std::size_t waiting() const noexcept { return waiting_.size(); }

 private:
  struct Child {
    pid_t pid;
    uid_t uid;
    bool closes;  // closes sockets; such children are counted apart from those that receive
  };
  struct Waiting {
    Fd socket;
    uid_t uid;
  };
  bool has_room(uid_t uid, bool closes) noexcept;
  Result<Message> receive_by_child(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid);
  // Starts a child that closes all sockets of the user that wait. False: there is no child, and
  // they still wait.
  enum class Bound : bool { none, held };
  bool close_by_child(uid_t uid, Bound bound = Bound::held);

  std::vector<Child> children_;
  std::vector<Waiting> waiting_;
};

}  // namespace ramfold::sys
