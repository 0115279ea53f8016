/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/preload/real.h"

#include "agent/core/raw.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>

static struct {
  void *(*mmap)(void *, size_t, int, int, int, off_t);
  int (*munmap)(void *, size_t);
  void *(*mremap)(void *, size_t, size_t, int, ...);
  int (*madvise)(void *, size_t, int);
  int (*mlock)(const void *, size_t);
  int (*mlock2)(const void *, size_t, unsigned);
  int (*mlockall)(int);
  int (*fallocate)(int, int, off_t, off_t);
  int (*ftruncate)(int, off_t);
  int (*close)(int);
  int (*close_range)(unsigned, unsigned, int);
  int (*dup2)(int, int);
  int (*dup3)(int, int, int);
  int (*ioctl)(int, unsigned long, ...);
  ssize_t (*sendmsg)(int, const struct msghdr *, int);
  int (*sendmmsg)(int, struct mmsghdr *, unsigned, int);
  int (*execve)(const char *, char *const[], char *const[]);
  int (*execvpe)(const char *, char *const[], char *const[]);
  int (*posix_fallocate)(int, off_t, off_t);
} real;

long rf_result(long raw) {
  if (raw >= 0 || raw < -4095) return raw;
  errno = (int)-raw;
  return -1;
}

/* ISO C has no conversion from an object's pointer to a function's; POSIX promises this one. */
#define RESOLVE(member, name) (*(void **)(&real.member) = dlsym(RTLD_NEXT, name))

__attribute__((constructor)) static void resolve(void) {
  const int saved = errno;
  RESOLVE(mmap, "mmap64");
  RESOLVE(munmap, "munmap");
  RESOLVE(mremap, "mremap");
  RESOLVE(madvise, "madvise");
  RESOLVE(mlock, "mlock");
  RESOLVE(mlock2, "mlock2");
  RESOLVE(mlockall, "mlockall");
  RESOLVE(fallocate, "fallocate64");
  RESOLVE(ftruncate, "ftruncate64");
  RESOLVE(close, "close");
  RESOLVE(close_range, "close_range");
  RESOLVE(dup2, "dup2");
  RESOLVE(dup3, "dup3");
  RESOLVE(ioctl, "ioctl");
  RESOLVE(sendmsg, "sendmsg");
  RESOLVE(sendmmsg, "sendmmsg");
  RESOLVE(execve, "execve");
  RESOLVE(execvpe, "execvpe");
  RESOLVE(posix_fallocate, "posix_fallocate64");
  errno = saved;
}

void *rf_real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  if (real.mmap != NULL) return real.mmap(at, size, prot, flags, fd, offset);
  return (void *)rf_result(rf_sys_mmap(at, size, prot, flags, fd, offset));
}

int rf_real_munmap(void *at, size_t size) {
  if (real.munmap != NULL) return real.munmap(at, size);
  return (int)rf_result(rf_sys_munmap(at, size));
}

void *rf_real_mremap(void *at, size_t size, size_t new_size, int flags, void *new_at) {
  if (real.mremap != NULL) return real.mremap(at, size, new_size, flags, new_at);
  return (void *)rf_result(
      rf_raw6(SYS_mremap, (long)at, (long)size, (long)new_size, flags, (long)new_at, 0));
}

int rf_real_madvise(void *at, size_t size, int advice) {
  if (real.madvise != NULL) return real.madvise(at, size, advice);
  return (int)rf_result(rf_sys_madvise(at, size, advice));
}

int rf_real_mlock(const void *at, size_t size) {
  if (real.mlock != NULL) return real.mlock(at, size);
  return (int)rf_result(rf_raw3(SYS_mlock, (long)at, (long)size, 0));
}

int rf_real_mlock2(const void *at, size_t size, unsigned flags) {
  if (real.mlock2 != NULL) return real.mlock2(at, size, flags);
  return (int)rf_result(rf_raw3(SYS_mlock2, (long)at, (long)size, flags));
}

int rf_real_mlockall(int flags) {
  if (real.mlockall != NULL) return real.mlockall(flags);
  return (int)rf_result(rf_raw3(SYS_mlockall, flags, 0, 0));
}

int rf_real_fallocate(int fd, int mode, off_t offset, off_t size) {
  if (real.fallocate != NULL) return real.fallocate(fd, mode, offset, size);
  return (int)rf_result(rf_raw6(SYS_fallocate, fd, mode, offset, size, 0, 0));
}

int rf_real_ftruncate(int fd, off_t size) {
  if (real.ftruncate != NULL) return real.ftruncate(fd, size);
  return (int)rf_result(rf_raw3(SYS_ftruncate, fd, size, 0));
}

int rf_real_close(int fd) {
  if (real.close != NULL) return real.close(fd);
  return (int)rf_result(rf_sys_close(fd));
}

int rf_real_close_range(unsigned first, unsigned last, int flags) {
  if (real.close_range != NULL) return real.close_range(first, last, flags);
  return (int)rf_result(rf_raw3(SYS_close_range, first, last, flags));
}

int rf_real_dup2(int fd, int new_fd) {
  if (real.dup2 != NULL) return real.dup2(fd, new_fd);
  return (int)rf_result(rf_raw3(SYS_dup2, fd, new_fd, 0));
}

int rf_real_dup3(int fd, int new_fd, int flags) {
  if (real.dup3 != NULL) return real.dup3(fd, new_fd, flags);
  return (int)rf_result(rf_raw3(SYS_dup3, fd, new_fd, flags));
}

int rf_real_ioctl(int fd, unsigned long request, void *argument) {
  if (real.ioctl != NULL) return real.ioctl(fd, request, argument);
  return (int)rf_result(rf_sys_ioctl(fd, request, (long)argument));
}

ssize_t rf_real_sendmsg(int fd, const struct msghdr *message, int flags) {
  if (real.sendmsg != NULL) return real.sendmsg(fd, message, flags);
  return rf_result(rf_sys_sendmsg(fd, message, flags));
}

int rf_real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  if (real.sendmmsg != NULL) return real.sendmmsg(fd, messages, count, flags);
  return (int)rf_result(rf_raw6(SYS_sendmmsg, fd, (long)messages, count, flags, 0, 0));
}

int rf_real_execve(const char *path, char *const arguments[], char *const environment[]) {
  if (real.execve != NULL) return real.execve(path, arguments, environment);
  return (int)rf_result(rf_raw3(SYS_execve, (long)path, (long)arguments, (long)environment));
}

/* These are more than a system call, so they fail while they are not resolved. */
int rf_real_execvpe(const char *file, char *const arguments[], char *const environment[]) {
  if (real.execvpe != NULL) return real.execvpe(file, arguments, environment);
  errno = ENOSYS;
  return -1;
}

int rf_real_posix_fallocate(int fd, off_t offset, off_t size) {
  return real.posix_fallocate != NULL ? real.posix_fallocate(fd, offset, size) : EOPNOTSUPP;
}
