/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Preloaded into the daemon: while the file $RAMFOLD_COPIES_SLOW is there, each page that is
   brought back for `off` or `detach` takes 5 ms longer, so that a test is in the middle of it for
   long. Faults of guests are served as always. Threads: any. */
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_unfolding(void) {
  char name[16] = "";
  (void)prctl(PR_GET_NAME, name);
  return strstr(name, "-unfold") != NULL;
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *const argument = va_arg(rest, void *);
  va_end(rest);
  const char *const path = getenv("RAMFOLD_COPIES_SLOW");
  if (request == UFFDIO_COPY && path != NULL && is_unfolding() && access(path, F_OK) == 0) {
    (void)usleep(5000);
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}
