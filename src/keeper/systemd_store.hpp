// SPDX-License-Identifier: GPL-2.0-or-later
// systemd's descriptor store (sd_notify(3), FDSTORE=1). It holds a duplicate of every entry of the
// keeper, and gives them to the next keeper when one was killed.
//
// Not with libsystemd: sd_pid_notify_with_fds() may sleep while the service manager is busy, and
// the keeper must never sleep. The protocol is documented as stable: a datagram of text with a
// descriptor. And so the keeper needs no library.
//
// Names in the store are `k.NAME` for kept descriptors and `w.PREFIX` for watches. All have
// FDPOLL=0. Otherwise systemd would drop a blocking userfaultfd, because poll(2) reports an error
// for it; and a pidfd whose process has ended, which tells a restarted keeper to drop the prefix.
//
// Threads: one.
// Invariants: systemd gets the calls of store() and remove() in their order. A call waits for
// systemd only within the time that be_patient() gave, and not at all when the previous attempt
// failed. Then store() returns false, remove() queues the removal, and flush() tries again later.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <chrono>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "keeper/protocol.hpp"
#include "keeper/table.hpp"
#include "sys/fd.hpp"

namespace ramfold::keeper {

class SystemdStore {
 public:
  static constexpr std::chrono::milliseconds kNotifyWait{1000};

  // The store is not present() when `address` is empty (no $NOTIFY_SOCKET) or its kind cannot carry
  // descriptors.
  static Result<SystemdStore> open(std::string_view address);

  bool present() const noexcept { return static_cast<bool>(socket_); }
  // From now on, calls may wait for systemd: for kNotifyWait in all, and the last of them for
  // kNotifyWait more.
  void be_patient() noexcept;
  // False: systemd did not take it now; ask again later.
  bool store(const Entry& entry);
  void remove(const Entry& entry);
  // Sends the queued removals. False: some are left.
  bool flush();
  bool idle() const noexcept { return removals_.empty(); }
  // Sends STATUS=… and other states. Never waits; the text is lost when systemd does not read.
  void tell(std::string_view state);
  void tell_ready();

 private:
  bool try_send(std::string_view text, int fd, int flags) noexcept;
  bool send(std::string_view text, int fd) noexcept;

  sys::Fd socket_;
  sockaddr_un address_{};
  socklen_t address_size_ = 0;
  std::uint64_t patient_until_ns_ = 0;
  bool stalled_ = false;              // the last attempt failed
  std::deque<std::string> removals_;  // at most one for each stored entry, so at most kHeldMax
};

// The descriptors that a service manager passed at the start (sd_listen_fds(3)), from 3 on. They
// are CLOEXEC now.
struct Passed {
  sys::Fd listener;         // the control socket, named "keeper.socket"
  std::vector<Kind> kinds;  // with names and fds: the entries that an earlier keeper had stored
  std::vector<std::string> names;
  std::vector<sys::Fd> fds;
  std::size_t foreign = 0;  // of unknown names (from a newer keeper?): left open, never touched
};
Passed take_passed();

}  // namespace ramfold::keeper
