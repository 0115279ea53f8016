// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a QEMU: registers an io_uring buffer over a part of the guest's RAM, and keeps it.
 * The kernel holds these pages for as long as QEMU runs, and a device may write to them at any time
 * without another fault. HOLD_FROM_MIB and HOLD_MIB say which part of the first RAM file.
 * Says "holder: holds N MiB" on stderr, or why not.
 *
 * Threads: one of its own, which waits for the RAM file and ends.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { kMib = 1 << 20, kWaitUs = 50000, kTriesMax = 1200 };

// Where the RAM file is mapped, if so much of it is; 0 before.
static unsigned long ram_address(size_t least) {
  FILE* const maps = fopen("/proc/self/maps", "re");
  if (maps == NULL) return 0;
  char line[512];
  unsigned long from = 0, to = 0, found = 0;
  while (found == 0 && fgets(line, sizeof line, maps) != NULL) {
    if (sscanf(line, "%lx-%lx", &from, &to) == 2 && to - from >= least &&
        strstr(line, "memory-backend-memfd") != NULL)
      found = from;
  }
  fclose(maps);
  return found;
}

static void* hold(void* unused) {
  const size_t from = (size_t)atol(getenv("HOLD_FROM_MIB")) * kMib;
  const size_t bytes = (size_t)atol(getenv("HOLD_MIB")) * kMib;
  unsigned long ram = 0;
  for (int tries = 0; ram == 0 && tries < kTriesMax; tries++) {
    usleep(kWaitUs);
    ram = ram_address(from + bytes);
  }
  if (ram == 0) {
    fprintf(stderr, "holder: there is no RAM file\n");
    return unused;
  }
  struct io_uring_params params = {0};
  const int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
  const struct iovec part = {(void*)(ram + from), bytes};
  if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &part, 1) != 0) {
    fprintf(stderr, "holder: %s\n", strerror(errno));
    return unused;
  }
  fprintf(stderr, "holder: holds %zu MiB\n", bytes / kMib);
  return unused;  // the ring stays open
}

__attribute__((constructor)) static void begin(void) {
  pthread_t thread;
  if (getenv("HOLD_MIB") != NULL && pthread_create(&thread, NULL, hold, NULL) == 0)
    pthread_detach(thread);
}
