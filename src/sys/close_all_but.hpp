// SPDX-License-Identifier: GPL-2.0-or-later
// What a child of a process with threads does first: lets go of every descriptor that is not its
// own.
// Threads: system calls only, no allocation, no locks.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <span>

namespace ramfold::sys {

// REQUIRES: `kept` is in ascending order.
inline void close_all_but(std::span<const int> kept) noexcept {
  unsigned from = 0;
  for (const int fd : kept) {
    const auto keep = static_cast<unsigned>(fd);
    if (keep > from) ::syscall(SYS_close_range, from, keep - 1, 0);
    from = keep + 1;
  }
  ::syscall(SYS_close_range, from, ~0u, 0);
}

}  // namespace ramfold::sys
