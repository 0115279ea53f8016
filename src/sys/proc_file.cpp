// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/proc_file.hpp"

#include <fcntl.h>
#include <poll.h>
#include <cstdio>
#include <string>

namespace ramfold::sys {

Result<int> ProcFile::opened() const {
  const int before = fd_.load(std::memory_order_acquire);
  if (before >= 0) return before;
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/%s", static_cast<int>(pid_), name_);
  Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return fail(std::string("open ") + path, errno == ENOENT ? ESRCH : errno);
  if (pidfd_ >= 0) {
    pollfd p{pidfd_, POLLIN, 0};
    if (::poll(&p, 1, 0) != 0) return fail("the process has ended", ESRCH);
  }
  int none = -1;
  if (!fd_.compare_exchange_strong(none, fd.get(), std::memory_order_acq_rel)) return none;
  return fd.release();
}

}  // namespace ramfold::sys
