// SPDX-License-Identifier: GPL-2.0-or-later
// Whether two descriptors of this process stand for one open file. Inodes do not tell that of
// anonymous files: all userfaultfds share one. Threads: any.
#pragma once

#include "sys/fd.hpp"

namespace ramfold::sys {

// False also where the kernel does not tell (no kcmp(2)).
bool same_open_file(BorrowedFd a, BorrowedFd b) noexcept;

}  // namespace ramfold::sys
