/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/preload/found.h"

#include "agent/core/ram.h"
#include "agent/core/raw.h"
#include "agent/core/say.h"
#include "agent/preload/process.h"
#include "agent/wire.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#define HUGETLBFS 0x958458F6

/* QEMU names its memfds; nothing else in the process is called like that. */
static bool is_backend(int fd) {
  static const char name[] = "/memfd:memory-backend-memfd";
  char path[32];
  char link[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  const long length = rf_sys_readlink(path, link, sizeof link - 1);
  if (length < 0) return false;
  link[length] = 0;
  if (strncmp(link, name, sizeof name - 1) != 0) return false;
  const char *rest = link + sizeof name - 1;
  return *rest == 0 || strcmp(rest, " (deleted)") == 0;
}

bool rf_found_ram(void *at, size_t size, int flags, int fd, off_t offset) {
  const int type = flags & MAP_TYPE;
  if (fd < 0 || (flags & MAP_ANONYMOUS) != 0) return false;
  if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE && type != MAP_PRIVATE) return false;
  if (size == 0 || size % RF_SHARED_PAGE != 0 || !is_backend(fd)) return false;
  if (type == MAP_PRIVATE) {
    if (rf_ram_count() != 0) return false; /* a further mapping, and RAM is known already */
    rf_say(RF_SAY_RAM,
           "ramfold: RAM is private (memory-backend-memfd needs share=on); running "
           "without folding");
    return false;
  }
  struct statfs f = {0};
  if (rf_raw3(SYS_fstatfs, fd, (long)&f, 0) != 0) return false;
  if ((uint64_t)f.f_type == HUGETLBFS) {
    rf_say(RF_SAY_RAM, "ramfold: RAM is of huge pages, which cannot be folded");
    return false;
  }
  return rf_make_home() && rf_ram_add(at, size, fd, offset, flags);
}
