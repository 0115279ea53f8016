/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls without libc: no errno, no cancellation point, no symbol that could lead back into
 * an interposer. Everything the agent does for itself goes through here, so that it neither
 * disturbs QEMU's errno nor meets its own gates. Results are the kernel's: -errno on failure.
 *
 * Threads: any, also a fork child and before libc is ready.
 */
#ifndef RAMFOLD_AGENT_CORE_RAW_H
#define RAMFOLD_AGENT_CORE_RAW_H

#ifndef __x86_64__
#error "the agent knows x86-64 hosts only"
#endif

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>

static inline long rf_raw6(long nr, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static inline long rf_raw3(long nr, long a, long b, long c) {
  return rf_raw6(nr, a, b, c, 0, 0, 0);
}

static inline int rf_sys_getpid(void) { return (int)rf_raw3(SYS_getpid, 0, 0, 0); }
static inline int rf_sys_close(int fd) { return (int)rf_raw3(SYS_close, fd, 0, 0); }
static inline int rf_sys_fcntl(int fd, int command, long argument) {
  return (int)rf_raw3(SYS_fcntl, fd, command, argument);
}
static inline int rf_sys_fstat(int fd, struct stat *out) {
  return (int)rf_raw3(SYS_fstat, fd, (long)out, 0);
}
static inline long rf_sys_readlink(const char *path, char *out, size_t size) {
  return rf_raw3(SYS_readlink, (long)path, (long)out, (long)size);
}
static inline long rf_sys_read(int fd, void *out, size_t size) {
  return rf_raw3(SYS_read, fd, (long)out, (long)size);
}
static inline long rf_sys_write(int fd, const void *bytes, size_t size) {
  return rf_raw3(SYS_write, fd, (long)bytes, (long)size);
}
static inline int rf_sys_fallocate(int fd, int mode, off_t offset, off_t size) {
  return (int)rf_raw6(SYS_fallocate, fd, mode, offset, size, 0, 0);
}
static inline long rf_sys_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  return rf_raw6(SYS_mmap, (long)at, (long)size, prot, flags, fd, offset);
}
static inline int rf_sys_munmap(void *at, size_t size) {
  return (int)rf_raw3(SYS_munmap, (long)at, (long)size, 0);
}
static inline int rf_sys_madvise(void *at, size_t size, int advice) {
  return (int)rf_raw3(SYS_madvise, (long)at, (long)size, advice);
}
static inline int rf_sys_ioctl(int fd, unsigned long request, long argument) {
  return (int)rf_raw3(SYS_ioctl, fd, (long)request, argument);
}
static inline int rf_sys_poll(struct pollfd *fds, unsigned count, int timeout_ms) {
  return (int)rf_raw3(SYS_poll, (long)fds, count, timeout_ms);
}
static inline long rf_sys_sendmsg(int fd, const struct msghdr *message, int flags) {
  return rf_raw3(SYS_sendmsg, fd, (long)message, flags);
}
static inline long rf_sys_recvmsg(int fd, struct msghdr *message, int flags) {
  return rf_raw3(SYS_recvmsg, fd, (long)message, flags);
}

static inline long rf_now_ms(void) {
  struct timespec t = {0};
  rf_raw3(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0);
  return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}
static inline void rf_sleep_us(unsigned us) {
  struct timespec t = {(time_t)(us / 1000000u), (long)(us % 1000000u) * 1000L};
  rf_raw3(SYS_nanosleep, (long)&t, 0, 0);
}

#endif
