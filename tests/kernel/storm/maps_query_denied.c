/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Preloaded into the daemon: the kernel does not know PROCMAP_QUERY, as before Linux 6.11.
   Threads: any. */
#include <errno.h>
#include <linux/ioctl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { maps_type = 'f', query_number = 17 }; /* of PROCMAP_QUERY */

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *const argument = va_arg(rest, void *);
  va_end(rest);
  if (_IOC_TYPE(request) == maps_type && _IOC_NR(request) == query_number) {
    errno = ENOTTY;
    return -1;
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}
