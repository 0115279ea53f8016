// SPDX-License-Identifier: GPL-2.0-or-later
// Receives messages from a process that may be hostile. A descriptor of its FUSE file system is a
// trap: whoever drops the last reference waits for the file system's server, uninterruptibly,
// SIGKILL included. close(2) asks it to flush; and with pages of the file dirty, even a descriptor
// that was never received is a trap: for who receives its message without room for descriptors, and
// for who closes the socket in whose queue it lies. So a message with descriptors is received by a
// child process, which looks at them and hands on only those that the kernel alone answers for, and
// a socket with such messages in its queue is closed by one. What they cannot let go of holds them
// in the daemon's place.
//
// Threads: one at a time. A child that is held stays until the trap's server dies; it holds nothing
// of ours, its memory goes before its descriptors, and few of them are let exist.
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
  // received at all, and sockets wait to be closed.
  static constexpr std::size_t kHeldOfUserMax = 2;
  static constexpr std::size_t kHeldMax = 64;
  // Sockets that wait: a child more, which weighs next to nothing, is less than a table of
  // descriptors that is full.
  static constexpr std::size_t kWaitingOfUserMax = 256;
  static constexpr std::size_t kWaitingMax = 4096;

  Receptionist() = default;
  ~Receptionist();
  Receptionist(const Receptionist&) = delete;
  Receptionist& operator=(const Receptionist&) = delete;

  // As sys::receive with MSG_DONTWAIT, from a sender who runs as `uid`. Every descriptor of the
  // message is the kernel's own; one that was not, or more than fit, makes the message `truncated`
  // and gives it no descriptor at all. Received::no_room: there is a message with descriptors and
  // no child to receive it; it stays in the queue.
  Result<Message> receive(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid);

  // Closes a socket that a stranger could send to. The peer sees its end at once; where descriptors
  // lie in its queue and no child may take it, it stays ours until tend() finds one that may.
  void close(Fd socket, uid_t uid);
  // Forgets children that have ended, and closes what waits for it.
  void tend();

  // Children that have not ended yet, and sockets that wait to be closed.
  std::size_t held() noexcept;
  std::size_t waiting() const noexcept { return waiting_.size(); }

 private:
  struct Child {
    pid_t pid;
    uid_t uid;
    bool closes;  // children that close have the same bounds, apart from those that receive
  };
  struct Waiting {
    Fd socket;
    uid_t uid;
  };
  bool has_room(uid_t uid, bool closes) noexcept;
  Result<Message> receive_by_child(BorrowedFd socket, std::span<std::byte> buffer, uid_t uid);
  // All sockets of the user that wait; false: they still do.
  enum class Bound : bool { none, held };
  bool close_by_child(uid_t uid, Bound bound = Bound::held);

  std::vector<Child> children_;
  std::vector<Waiting> waiting_;
};

}  // namespace ramfold::sys
