/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/fds.h"

#include "agent/core/raw.h"
#include "agent/core/reset.h"
#include "agent/wire.h"

#include <stdatomic.h>

/* The uffd, the RAM files, the socket, the wake-up, and two while they are received. */
#define OWN_MAX (RF_BLOCKS_MAX + 8)

static _Atomic int own[OWN_MAX]; /* number + 1; 0 is a free slot */
/* Most calls are about descriptors below all of ours: one comparison tells. */
static _Atomic int own_lowest = 0x7fffffff;

int rf_own_keep(int fd) {
  static const int from[] = {700, 200, 64, 16};
  int kept = fd;
  for (unsigned i = 0; i < sizeof from / sizeof from[0]; ++i) {
    const int high = rf_sys_fcntl(fd, F_DUPFD_CLOEXEC, from[i]);
    if (high < 0) continue; /* above the limit of open files: lower */
    kept = high;
    break;
  }
  for (unsigned i = 0; i < OWN_MAX; ++i) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&own[i], &none, kept + 1)) continue;
    int lowest = atomic_load(&own_lowest);
    while (kept < lowest && !atomic_compare_exchange_weak(&own_lowest, &lowest, kept)) {
    }
    break;
  }
  if (kept != fd) rf_sys_close(fd);
  return kept;
}

void rf_own_drop(int fd) {
  if (fd < 0) return;
  /* Closed first: if the slot were freed first, QEMU could close the number before. */
  rf_sys_close(fd);
  for (unsigned i = 0; i < OWN_MAX; ++i) {
    int number = fd + 1;
    if (atomic_compare_exchange_strong(&own[i], &number, 0)) return;
  }
}

bool rf_own_is(int fd) {
  if (fd < atomic_load_explicit(&own_lowest, memory_order_relaxed)) return false;
  for (unsigned i = 0; i < OWN_MAX; ++i)
    if (atomic_load(&own[i]) == fd + 1) return true;
  return false;
}

int rf_own_in(unsigned first, unsigned last) {
  int found = -1;
  for (unsigned i = 0; i < OWN_MAX; ++i) {
    const int fd = atomic_load(&own[i]) - 1;
    if (fd < 0 || (unsigned)fd < first || (unsigned)fd > last) continue;
    if (found < 0 || fd < found) found = fd;
  }
  return found;
}

/* A child has copies, and may use the numbers for itself. */
static void in_child(void) {
  for (unsigned i = 0; i < OWN_MAX; ++i) {
    const int number = atomic_exchange(&own[i], 0);
    if (number != 0) rf_sys_close(number - 1);
  }
}

RF_RESET(in_child, NULL);
