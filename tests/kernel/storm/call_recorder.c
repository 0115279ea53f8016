/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Preloaded into the daemon and its guests: writes into $RAMFOLD_CALL_REPORT which calls on guest
   RAM a thread makes and how much the longest of each covers, a line whenever one covers more than
   all before it: "PROGRAM THREAD CALL BYTES". Lookups of residency (lseek, mincore) count as
   covering one byte. It judges nothing. Threads: any. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum call {
  REGISTER,
  UNREGISTER,
  WAKE,
  COPY,
  ZEROPAGE,
  WRITEPROTECT,
  CONTINUE,
  POISON,
  SCAN,
  FALLOCATE,
  ADVISE,
  SEEK,
  MINCORE,
  CALLS
};
static const char *const names[CALLS] = {
    "register", "unregister",   "wake",      "copy",    "zeropage", "writeprotect", "continue",
    "poison",   "pagemap_scan", "fallocate", "madvise", "lseek",    "mincore"};
static _Thread_local uint64_t longest[CALLS];

static void record(enum call call, uint64_t bytes) {
  if (bytes <= longest[call]) return;
  longest[call] = bytes;
  const int saved = errno;
  const char *path = getenv("RAMFOLD_CALL_REPORT");
  const int fd = path != NULL ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
  if (fd >= 0) {
    char thread[16] = "?", line[128];
    (void)pthread_getname_np(pthread_self(), thread, sizeof thread);
    const int size = snprintf(line, sizeof line, "%s %s %s %llu\n", program_invocation_short_name,
                              thread, names[call], (unsigned long long)bytes);
    if (write(fd, line, (size_t)size) != size) abort();
    close(fd);
  }
  errno = saved;
}

/* struct pm_scan_arg, newer than the kernel headers: size and flags come first. */
struct scan_argument {
  uint64_t size, flags, start, end;
};

static void record_ioctl(unsigned long request, const void *argument) {
  switch (request) {
    case UFFDIO_REGISTER:
      record(REGISTER, ((const struct uffdio_register *)argument)->range.len);
      break;
    case UFFDIO_UNREGISTER: record(UNREGISTER, ((const struct uffdio_range *)argument)->len); break;
    case UFFDIO_WAKE: record(WAKE, ((const struct uffdio_range *)argument)->len); break;
    case UFFDIO_COPY: record(COPY, ((const struct uffdio_copy *)argument)->len); break;
    case UFFDIO_ZEROPAGE:
      record(ZEROPAGE, ((const struct uffdio_zeropage *)argument)->range.len);
      break;
    case UFFDIO_WRITEPROTECT:
      record(WRITEPROTECT, ((const struct uffdio_writeprotect *)argument)->range.len);
      break;
    case UFFDIO_CONTINUE:
      record(CONTINUE, ((const struct uffdio_continue *)argument)->range.len);
      break;
    default:
      if ((request >> 8 & 0xff) == UFFDIO && (request & 0xff) == 8) { /* UFFDIO_POISON */
        record(POISON, ((const struct uffdio_range *)argument)->len);
      } else if ((request >> 8 & 0xff) == 'f' && (request & 0xff) == 16) { /* PAGEMAP_SCAN */
        const struct scan_argument *scan = argument;
        record(SCAN, scan->end - scan->start);
      }
  }
}

#define NEXT(name) (*(name##_call **)(&(void *){dlsym(RTLD_NEXT, #name)}))
typedef int ioctl_call(int, unsigned long, void *);
typedef int fallocate64_call(int, int, off64_t, off64_t);
typedef off64_t lseek64_call(int, off64_t, int);
typedef int madvise_call(void *, size_t, int);
typedef int mincore_call(void *, size_t, unsigned char *);

EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  record_ioctl(request, argument);
  return NEXT(ioctl)(fd, request, argument);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  record(FALLOCATE, (uint64_t)size);
  return NEXT(fallocate64)(fd, mode, offset, size);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t size) {
  return fallocate64(fd, mode, offset, size);
}

EXPORT off64_t lseek64(int fd, off64_t offset, int whence) {
  if (whence == SEEK_DATA || whence == SEEK_HOLE) record(SEEK, 1);
  return NEXT(lseek64)(fd, offset, whence);
}

EXPORT off_t lseek(int fd, off_t offset, int whence) { return lseek64(fd, offset, whence); }

EXPORT int madvise(void *at, size_t size, int advice) {
  if (advice == MADV_REMOVE || advice == MADV_DONTNEED) record(ADVISE, size);
  return NEXT(madvise)(at, size, advice);
}

EXPORT int mincore(void *at, size_t size, unsigned char *resident) {
  record(MINCORE, 1);
  return NEXT(mincore)(at, size, resident);
}
