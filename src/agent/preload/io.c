/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hazards that the kind of a descriptor does not show: SG_IO and similar requests, io_uring's
 * registered buffers, a further userfaultfd. Also libc's syscall(), which can make several of these
 * calls.
 */
#include "agent/core/raw.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <linux/cdrom.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* Requests by which the kernel maps the caller's memory for a device. */
static bool passes_through(unsigned long request) {
  switch (request) {
    case SG_IO:
    case CDROM_SEND_PACKET:
    case CDROMREADAUDIO: return true;
    default: /* NVMe: admin, submit, I/O and their 64-bit forms */
      return _IOC_TYPE(request) == 'N' && _IOC_NR(request) >= 0x41 && _IOC_NR(request) <= 0x49;
  }
}

static int control_unfolded(int fd, unsigned long request, void *argument) {
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_OTHER_UFFD) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_ioctl(fd, request, argument);
  const int saved = errno;
  rf_hazard_done(&call, result >= 0);
  errno = saved;
  return result;
}

static int control_held(int fd, unsigned long request, void *argument) {
  struct rf_hazard_call call;
  if (rf_hazard_hold(&call, RF_HAZARD_SG_IO, true) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_ioctl(fd, request, argument);
  const int saved = errno;
  rf_hazard_done(&call, false);
  errno = saved;
  return result;
}

RF_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (passes_through(request) && rf_active()) return control_held(fd, request, argument);
  if (request == USERFAULTFD_IOC_NEW && rf_active()) return control_unfolded(fd, request, argument);
  return rf_real_ioctl(fd, request, argument);
}

/* ---- io_uring ---- */

static bool registers_buffers(unsigned operation) {
  const unsigned kind = operation & 0x7fffffffu; /* the top bit: the ring is given by its index */
  /* IORING_REGISTER_BUFFERS, _BUFFERS2, _BUFFERS_UPDATE, _CLONE_BUFFERS */
  return kind == 0 || kind == 15 || kind == 16 || kind == 30;
}

/* liburing's functions; results are -errno. They exist when QEMU is linked with it. */
struct io_uring;

static int begin_register(struct rf_hazard_call *call, bool *active) {
  *active = rf_active();
  return *active ? -rf_hazard_hold(call, RF_HAZARD_FIXED_BUFFERS, true) : 0;
}

/* NOLINTBEGIN(bugprone-macro-parentheses): lists of parameters have theirs. */
#define REGISTER(name, parameters, types, arguments)   \
  int name parameters;                                 \
  RF_EXPORT int name parameters {                      \
    int(*function) types;                              \
    *(void **)(&function) = rf_real_symbol(#name);     \
    if (function == NULL) return -ENOSYS;              \
    struct rf_hazard_call call;                        \
    bool active;                                       \
    const int failed = begin_register(&call, &active); \
    if (failed != 0) return failed;                    \
    const int result = function arguments;             \
    if (active) rf_hazard_done(&call, false);          \
    return result;                                     \
  }
/* NOLINTEND(bugprone-macro-parentheses) */

REGISTER(io_uring_register_buffers, (struct io_uring * ring, const struct iovec *v, unsigned n),
         (struct io_uring *, const struct iovec *, unsigned), (ring, v, n))
REGISTER(io_uring_register_buffers_tags,
         (struct io_uring * ring, const struct iovec *v, const __u64 *tags, unsigned n),
         (struct io_uring *, const struct iovec *, const __u64 *, unsigned), (ring, v, tags, n))
REGISTER(io_uring_register_buffers_sparse, (struct io_uring * ring, unsigned n),
         (struct io_uring *, unsigned), (ring, n))
REGISTER(io_uring_register_buffers_update_tag,
         (struct io_uring * ring, unsigned at, const struct iovec *v, const __u64 *tags,
          unsigned n),
         (struct io_uring *, unsigned, const struct iovec *, const __u64 *, unsigned),
         (ring, at, v, tags, n))
REGISTER(io_uring_clone_buffers, (struct io_uring * ring, struct io_uring *from),
         (struct io_uring *, struct io_uring *), (ring, from))

/* ---- syscall() ---- */

static long call_held(long nr, const long *a) {
  struct rf_hazard_call call;
  if (rf_hazard_hold(&call, RF_HAZARD_FIXED_BUFFERS, true) != 0) {
    errno = EBUSY;
    return -1;
  }
  const long result = rf_raw6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
  rf_hazard_done(&call, false);
  return rf_result(result);
}

static long call_unfolded(long nr, const long *a) {
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_OTHER_UFFD) != 0) {
    errno = EBUSY;
    return -1;
  }
  const long result = rf_raw6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
  rf_hazard_done(&call, result >= 0);
  return rf_result(result);
}

static long look(long fd) {
  if (fd < 0 || rf_hazard_descriptor((int)fd) == 0) return rf_result(fd);
  rf_sys_close((int)fd);
  errno = EBUSY;
  return -1;
}

/*
 * Reads six arguments whatever their number: the unused ones are whatever the registers and the
 * stack hold, as in libc's own, and the kernel ignores them.
 */
RF_EXPORT long syscall(long nr, ...) {
  long a[6];
  va_list arguments;
  va_start(arguments, nr);
  for (int i = 0; i < 6; ++i) a[i] = va_arg(arguments, long);
  va_end(arguments);
  switch (nr) {
    case SYS_userfaultfd:
      if (rf_active()) return call_unfolded(nr, a);
      break;
    case SYS_io_uring_register:
      if (registers_buffers((unsigned)a[1]) && rf_active()) return call_held(nr, a);
      break;
    case SYS_open:
    case SYS_openat:
    case SYS_openat2:
    case SYS_pidfd_getfd:
      if (rf_active()) return look(rf_raw6(nr, a[0], a[1], a[2], a[3], a[4], a[5]));
      break;
    case SYS_close: return close((int)a[0]);
    case SYS_close_range: return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
    case SYS_mlock2: return mlock2((const void *)a[0], (size_t)a[1], (unsigned)a[2]);
    case SYS_execveat:
      return execveat((int)a[0], (const char *)a[1], (char *const *)a[2], (char *const *)a[3],
                      (int)a[4]);
    default: break;
  }
  return rf_result(rf_raw6(nr, a[0], a[1], a[2], a[3], a[4], a[5]));
}
