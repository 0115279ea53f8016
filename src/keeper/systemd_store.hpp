// SPDX-License-Identifier: GPL-2.0-or-later
// The keeper's second home: systemd's descriptor store (sd_notify(3), FDSTORE=1), which gives
// everything back to a keeper that was killed.
//
// Written by hand rather than with libsystemd: the protocol is a datagram of text with a
// descriptor, documented as stable, and the keeper must never sleep in it while the service manager
// is busy, which sd_pid_notify_with_fds() would. It also keeps the keeper free of any library.
//
// Names in the store are `k.NAME` for what is kept and `w.PREFIX` for watches. FDPOLL=0 throughout:
// systemd would otherwise drop a blocking userfaultfd (it polls as an error) and a pidfd whose
// process has ended, with which a restarted keeper knows what to drop.
//
// Threads: one.
// Invariants: what is stored or removed reaches systemd in the order of the calls. Calls wait for
// systemd to read only within the time that be_patient() gave, and not at all when the attempt
// before failed: then store() says no and removals are queued, and flush() goes on later.
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

  // Absent when `address` is empty (no $NOTIFY_SOCKET) or of a kind that cannot carry descriptors.
  static Result<SystemdStore> open(std::string_view address);

  bool present() const noexcept { return static_cast<bool>(socket_); }
  // Calls may wait for systemd for kNotifyWait from now on, all together (one more for the last).
  void be_patient() noexcept;
  // False: systemd did not take it now; ask again later.
  bool store(const Entry& entry);
  void remove(const Entry& entry);
  // Sends queued removals; false while there are any left.
  bool flush();
  bool idle() const noexcept { return removals_.empty(); }
  // STATUS=… and the like; never waits, and is lost when systemd does not read.
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
  std::deque<std::string> removals_;  // at most one an entry that was stored: bounded by kHeldMax
};

// What a service manager passed at the start (sd_listen_fds(3)); descriptors from 3 on, now
// CLOEXEC.
struct Passed {
  sys::Fd listener;         // the control socket, named "keeper.socket"
  std::vector<Kind> kinds;  // one an item of names and fds: what an earlier keeper had stored
  std::vector<std::string> names;
  std::vector<sys::Fd> fds;
  std::size_t foreign = 0;  // not understood (a newer keeper's?): left open, never touched
};
Passed take_passed();

}  // namespace ramfold::keeper
