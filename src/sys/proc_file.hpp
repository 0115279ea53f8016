// SPDX-License-Identifier: GPL-2.0-or-later
// A file of /proc/PID that the first use opens: the process can make that call wait.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <atomic>

#include "base/result.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

class ProcFile {
 public:
  // `name`: below /proc/PID, a literal. After the file was opened, `pidfd` tells whether the pid
  // still names the same process; -1: the caller knows that it does. REQUIRES: `pidfd` outlives
  // this.
  ProcFile(pid_t pid, BorrowedFd pidfd, const char* name) noexcept
      : pid_(pid), pidfd_(pidfd.get()), name_(name) {}
  ~ProcFile() { Fd(fd_.load()).reset(); }
  ProcFile(const ProcFile&) = delete;
  ProcFile& operator=(const ProcFile&) = delete;

  // The descriptor, which stays this object's. ESRCH: the process is gone.
  Result<int> opened() const;

 private:
  pid_t pid_;
  int pidfd_;
  const char* name_;
  mutable std::atomic<int> fd_{-1};
};

}  // namespace ramfold::sys
