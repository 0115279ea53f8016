// SPDX-License-Identifier: GPL-2.0-or-later
// Closes every descriptor of this process but the given ones. The child of a process with threads
// does this first, so that it keeps nothing of its parent's open.
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
