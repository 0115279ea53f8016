/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls on descriptors. QEMU must not close or replace the agent's own. O_DIRECT may be switched on
 * later. When a hazardous descriptor is closed, the daemon gets a hint.
 */
#include "agent/core/fds.h"
#include "agent/core/session.h"
#include "agent/preload/interpose.h"
#include "agent/preload/process.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <unistd.h>

/* The agent's descriptors are its own at home only: a child may do as it likes with its copies. */
static bool is_ours(int fd) { return rf_own_is(fd) && rf_at_home(); }

/* A copy of a hazardous descriptor is one, too. */
static void copied(int fd, int copy) {
  if (copy >= 0 && copy != fd && rf_hazardous_is(fd) && rf_at_home()) rf_hazardous_set(copy);
}

static void changed(int fd) {
  if (rf_hazardous_is(fd) && rf_at_home() && rf_hazardous_clear(fd))
    rf_session_hint(RF_CHANGED, RF_HAZARD_DIRECT_IO | RF_HAZARD_FILESYSTEM);
}

RF_EXPORT int close(int fd) {
  if (is_ours(fd)) {
    errno = EBADF; /* to QEMU it was never there */
    return -1;
  }
  const int result = rf_real_close(fd);
  const int saved = errno;
  changed(fd);
  errno = saved;
  return result;
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

RF_EXPORT int dup(int fd) {
  const int copy = rf_real_dup(fd);
  copied(fd, copy);
  return copy;
}

static int replace(int fd, int new_fd, int flags, bool with_flags) {
  if (is_ours(new_fd)) {
    errno = EBUSY;
    return -1;
  }
  const int result = with_flags ? rf_real_dup3(fd, new_fd, flags) : rf_real_dup2(fd, new_fd);
  if (result < 0 || fd == new_fd) return result;
  const int saved = errno;
  changed(new_fd);
  copied(fd, new_fd);
  errno = saved;
  return result;
}

RF_EXPORT int dup2(int fd, int new_fd) { return replace(fd, new_fd, 0, false); }
RF_EXPORT int dup3(int fd, int new_fd, int flags) { return replace(fd, new_fd, flags, true); }

static int set_flags(int fd, void *argument) {
  const bool direct = ((long)argument & O_DIRECT) != 0;
  const int saved = errno;
  const int before = rf_real_fcntl(fd, F_GETFL, NULL);
  if (before < 0) return -1;
  errno = saved;
  if (!direct || (before & O_DIRECT) != 0) {
    const int result = rf_real_fcntl(fd, F_SETFL, argument);
    if (result == 0 && !direct && (before & O_DIRECT) != 0) changed(fd);
    return result;
  }
  struct rf_hazard_call call;
  if (rf_hazard_hold(&call, RF_HAZARD_DIRECT_IO, false) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_fcntl(fd, F_SETFL, argument);
  if (result == 0) rf_hazardous_set(fd);
  rf_hazard_done(&call, false); /* it ends when the descriptor is closed */
  return result;
}

static int control(int fd, int command, void *argument) {
  if (command == F_SETFL && rf_active()) return set_flags(fd, argument);
  const int result = rf_real_fcntl(fd, command, argument);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) copied(fd, result);
  return result;
}

RF_EXPORT int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return control(fd, command, argument);
}

RF_EXPORT int fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return control(fd, command, argument);
}
