/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/facts.h"

#include "agent/core/fds.h"
#include "agent/core/raw.h"
#include "agent/fdkind.h"
#include "agent/wire.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

static _Atomic uint32_t lasting;

/* A userfaultfd of QEMU's own ends with its descriptor, which the daemon sees in /proc. So it is
   not noted here. The attachment in which it began stays unfolded: rf_shared.sticky says so. */
void rf_facts_add(uint32_t hazards) {
  atomic_fetch_or(&lasting, hazards & ~(uint32_t)RF_HAZARD_OTHER_UFFD);
}
uint32_t rf_facts_lasting(void) { return atomic_load(&lasting); }

/* Null when it cannot be read. */
static const char *link_at(const char *path, char *out, size_t size) {
  const long length = rf_sys_readlink(path, out, size - 1);
  if (length <= 0) return NULL;
  out[length] = 0;
  return out;
}

uint32_t rf_facts_of(int fd) {
  const int flags = rf_sys_fcntl(fd, F_GETFL, 0);
  struct stat s = {0};
  if (flags < 0 || rf_sys_fstat(fd, &s) != 0) return 0;
  char path[48];
  char link[64]; /* only its beginning is asked about */
  char device[256];
  struct rf_fd_facts facts = {.mode = s.st_mode,
                              .device_major = major(s.st_rdev),
                              .device_minor = minor(s.st_rdev),
                              .direct = (flags & O_DIRECT) != 0,
                              .path_only = (flags & O_PATH) != 0,
                              .write_only = (flags & O_ACCMODE) == O_WRONLY};
  if (S_ISREG(s.st_mode)) {
    struct statfs f;
    if (rf_raw3(SYS_fstatfs, fd, (long)&f, 0) == 0) facts.filesystem = (uint32_t)f.f_type;
  }
  if (S_ISREG(s.st_mode) || (s.st_mode & S_IFMT) == 0) {
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    facts.link = link_at(path, link, sizeof link);
  } else if (S_ISCHR(s.st_mode)) {
    snprintf(path, sizeof path, "/sys/dev/char/%u:%u", facts.device_major, facts.device_minor);
    const char *where = link_at(path, device, sizeof device);
    const char *last = where == NULL ? NULL : strrchr(where, '/');
    facts.name = last == NULL ? NULL : last + 1;
  }
  return rf_fd_hazard(&facts);
}

struct entry { /* of getdents64 */
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};

static int number_of(const char *name) {
  int n = 0;
  if (*name == 0) return -1;
  for (; *name != 0; ++name) {
    if (*name < '0' || *name > '9' || n > 100000000) return -1;
    n = n * 10 + (*name - '0');
  }
  return n;
}

void rf_facts_mark_open(void) {
  const int opened =
      rf_sys_openat(AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (opened < 0) return;
  const int directory = rf_own_keep(opened);
  _Alignas(8) char entries[2048] = {0};
  for (;;) {
    const long bytes = rf_raw3(SYS_getdents64, directory, (long)entries, sizeof entries);
    if (bytes <= 0) break;
    for (long at = 0; at < bytes;) {
      const struct entry *e = (const struct entry *)(const void *)(entries + at);
      at += e->length;
      const int fd = number_of(e->name);
      if (fd < 0 || rf_own_is(fd)) continue;
      if (rf_facts_of(fd) != 0) rf_hazardous_set(fd);
    }
  }
  rf_own_drop(directory);
}
