// SPDX-License-Identifier: GPL-2.0-or-later
// A child process that tells systemd that the daemon has ended, when systemd cannot see it. systemd
// sees the end of a main process when its last thread has ended. A VM's process can hold a thread
// of a killed daemon in a system call as long as it likes; then the service would not be started
// again. The child gets a signal when the daemon's first thread ends. If the other threads have not
// ended 2 s later, a child of this child makes itself the main process of the service, and ends.
// Threads: one.
#pragma once

namespace ramfold::daemon {

class EndWatch {
 public:
  // Starts the child. Without a service manager ($NOTIFY_SOCKET), or if no process can be made, the
  // daemon goes on without it. REQUIRES: called by the first thread, before it starts others.
  static EndWatch start() noexcept;
  // Sets the exit status that systemd will see. Default: 1, as for a daemon that was killed.
  void will_end_with(int status) const noexcept;

 private:
  explicit EndWatch(int* status) noexcept : status_(status) {}
  int* status_;  // shared with the child; null: there is none
};

}  // namespace ramfold::daemon
