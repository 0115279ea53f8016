/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls that give QEMU a descriptor by name. The file is opened first and looked at then: what a
 * name leads to is known only by opening it.
 */
#include "agent/core/raw.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

/* libc's checked variants; its headers declare them only for callers that are built so. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

static int look(int fd) {
  if (fd < 0 || !rf_active()) return fd;
  if (rf_hazard_descriptor(fd) == 0) return fd;
  rf_sys_close(fd);
  errno = EBUSY;
  return -1;
}

static int open_at(int dir, const char *path, int flags, mode_t mode) {
  return look(rf_real_openat(dir, path, flags, mode));
}

/* The mode is there only when the flags say so. */
#define MODE(flags, mode)                                                 \
  do {                                                                    \
    if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) { \
      va_list arguments;                                                  \
      va_start(arguments, flags);                                         \
      (mode) = va_arg(arguments, mode_t);                                 \
      va_end(arguments);                                                  \
    }                                                                     \
  } while (0)

RF_EXPORT int open(const char *path, int flags, ...) {
  mode_t mode = 0;
  MODE(flags, mode);
  return open_at(AT_FDCWD, path, flags, mode);
}

RF_EXPORT int open64(const char *path, int flags, ...) {
  mode_t mode = 0;
  MODE(flags, mode);
  return open_at(AT_FDCWD, path, flags, mode);
}

RF_EXPORT int openat(int dir, const char *path, int flags, ...) {
  mode_t mode = 0;
  MODE(flags, mode);
  return open_at(dir, path, flags, mode);
}

RF_EXPORT int openat64(int dir, const char *path, int flags, ...) {
  mode_t mode = 0;
  MODE(flags, mode);
  return open_at(dir, path, flags, mode);
}

RF_EXPORT int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
RF_EXPORT int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
RF_EXPORT int __openat_2(int dir, const char *path, int flags) {
  return open_at(dir, path, flags, 0);
}
RF_EXPORT int __openat64_2(int dir, const char *path, int flags) {
  return open_at(dir, path, flags, 0);
}

RF_EXPORT int creat(const char *path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

RF_EXPORT int creat64(const char *path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static FILE *open_stream(const char *path, const char *mode) {
  FILE *stream = rf_real_fopen(path, mode);
  if (stream == NULL || !rf_active()) return stream;
  if (rf_hazard_descriptor(fileno(stream)) == 0) return stream;
  fclose(stream);
  errno = EBUSY;
  return NULL;
}

RF_EXPORT FILE *fopen(const char *path, const char *mode) { return open_stream(path, mode); }
RF_EXPORT FILE *fopen64(const char *path, const char *mode) { return open_stream(path, mode); }
