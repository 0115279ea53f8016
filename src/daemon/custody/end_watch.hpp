// SPDX-License-Identifier: GPL-2.0-or-later
// A child that tells systemd of the end of this process where systemd cannot see it. It sees a
// main process end when the last thread has, and a VM's process can hold a thread of a killed
// daemon in a system call for as long as it likes: the service would not be started again. The
// child hears of the first thread's end; when the others have not followed after a moment, a
// process of its makes itself the service's main process, and ends.
// Threads: one.
#pragma once

namespace ramfold::daemon {

class EndWatch {
 public:
  // Without a service manager ($NOTIFY_SOCKET), or a process to be had, there is none, and nothing
  // is lost but that. REQUIRES: called by the first thread, while there is no other.
  static EndWatch start() noexcept;
  // Instead of 1, as of one that was killed.
  void will_end_with(int status) const noexcept;

 private:
  explicit EndWatch(int* status) noexcept : status_(status) {}
  int* status_;  // shared with the child; null: there is none
};

}  // namespace ramfold::daemon
