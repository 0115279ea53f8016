/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU must not close or replace the agent's own descriptors (L1). */
#include "agent/core/fds.h"
#include "agent/preload/interpose.h"
#include "agent/preload/process.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

/* The agent's descriptors are its own at home only: a child may do as it likes with its copies. */
static bool is_ours(int fd) { return rf_own_is(fd) && rf_at_home(); }

RF_EXPORT int close(int fd) {
  if (!is_ours(fd)) return rf_real_close(fd);
  errno = EBADF; /* to QEMU it was never there */
  return -1;
}

/* In pieces, around the agent's descriptors. */
RF_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  if (first > last || !rf_at_home()) return rf_real_close_range(first, last, flags);
  for (;;) {
    const int own = rf_own_in(first, last);
    const unsigned piece_last = own < 0 ? last : (unsigned)own - 1;
    if (own != (int)first || own < 0) {
      const int result = rf_real_close_range(first, piece_last, flags);
      if (result != 0) return result;
    }
    if (own < 0 || (unsigned)own == last) return 0;
    first = (unsigned)own + 1;
  }
}

RF_EXPORT void closefrom(int first) { (void)close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0); }

RF_EXPORT int dup2(int fd, int new_fd) {
  if (!is_ours(new_fd)) return rf_real_dup2(fd, new_fd);
  errno = EBUSY;
  return -1;
}

RF_EXPORT int dup3(int fd, int new_fd, int flags) {
  if (!is_ours(new_fd)) return rf_real_dup3(fd, new_fd, flags);
  errno = EBUSY;
  return -1;
}
