/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Preloaded into the daemon: while the file $RAMFOLD_MEMORY_DENIED is there, its threads but the
   first get no memory that they ask for ahead (MADV_POPULATE_WRITE), as the index of the store is.
   Threads: any. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int madvise(void *at, size_t size, int advice) {
  const char *path = getenv("RAMFOLD_MEMORY_DENIED");
  if (advice == MADV_POPULATE_WRITE && path != NULL && syscall(SYS_gettid) != getpid() &&
      access(path, F_OK) == 0) {
    errno = ENOMEM;
    return -1;
  }
  return (int)syscall(SYS_madvise, at, size, advice);
}
