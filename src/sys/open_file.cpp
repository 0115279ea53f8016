// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/open_file.hpp"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ramfold::sys {

bool same_open_file(BorrowedFd a, BorrowedFd b) noexcept {
  const pid_t self = ::getpid();
  return ::syscall(SYS_kcmp, self, self, KCMP_FILE, a.get(), b.get()) == 0;
}

}  // namespace ramfold::sys
