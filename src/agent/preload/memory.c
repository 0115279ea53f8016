/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mmap and similar calls: they show where RAM is, and may unmap, remap, lock or discard it by
 * address. mprotect passes: it changes no byte.
 */
#include "agent/core/discard.h"
#include "agent/core/facts.h"
#include "agent/core/mapping.h"
#include "agent/core/ram.h"
#include "agent/core/session.h"
#include "agent/preload/found.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since Linux 5.14 */
#endif

/* A further mapping of a RAM file would fill a folded page's hole with zeros when it is read. */
static bool maps_ram_again(int flags, int fd) {
  return (flags & MAP_ANONYMOUS) == 0 && rf_ram_is_file(fd, NULL, NULL);
}

static void *map(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  const int saved = errno;
  struct rf_hazard_call call;
  bool hazard = false;
  bool over = false;
  bool again = false;
  if (rf_active()) {
    over = (flags & MAP_FIXED) != 0 && rf_ram_overlaps(at, size);
    again = maps_ram_again(flags, fd);
    hazard = over || again;
    if (hazard && rf_hazard_unfold(&call, RF_HAZARD_REMAP) != 0) {
      errno = EBUSY;
      return MAP_FAILED;
    }
    errno = saved;
  }
  void *mapped = rf_real_mmap(at, size, prot, flags, fd, offset);
  const int result = errno;
  if (mapped != MAP_FAILED) {
    if (over) rf_ram_lost(at, size);
    if (rf_found_ram(mapped, size, flags, fd, offset)) {
      rf_session_start();
    } else if (again) {
      rf_facts_add(RF_HAZARD_REMAP);
    }
  }
  /* Before RAM is frozen, QEMU maps over it as part of its start, and that is no hazard to note;
     rf_ram_lost() notes those that are. */
  if (hazard) rf_hazard_done(&call, false);
  errno = result;
  return mapped;
}

RF_EXPORT void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
  return map(at, size, prot, flags, fd, offset);
}

RF_EXPORT void *mmap64(void *at, size_t size, int prot, int flags, int fd, off64_t offset) {
  return map(at, size, prot, flags, fd, offset);
}

RF_EXPORT int munmap(void *at, size_t size) {
  if (!rf_ram_overlaps(at, size) || !rf_active()) return rf_real_munmap(at, size);
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_REMAP) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_munmap(at, size);
  const int saved = errno;
  if (result == 0) rf_ram_lost(at, size);
  rf_hazard_done(&call, false);
  errno = saved;
  return result;
}

RF_EXPORT void *mremap(void *at, size_t size, size_t new_size, int flags, ...) {
  void *new_at = NULL;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    new_at = va_arg(arguments, void *);
    va_end(arguments);
  }
  const bool onto = (flags & MREMAP_FIXED) != 0;
  if (!rf_active() ||
      (!rf_ram_overlaps(at, size > 0 ? size : 1) && !(onto && rf_ram_overlaps(new_at, new_size))))
    return rf_real_mremap(at, size, new_size, flags, new_at);
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_REMAP) != 0) {
    errno = EBUSY;
    return MAP_FAILED;
  }
  void *moved = rf_real_mremap(at, size, new_size, flags, new_at);
  const int saved = errno;
  if (moved != MAP_FAILED) {
    rf_ram_lost(at, size);
    if (onto) rf_ram_lost(new_at, new_size);
  }
  rf_hazard_done(&call, moved != MAP_FAILED);
  errno = saved;
  return moved;
}

static int remove_range(void *at, size_t size) {
  struct rf_gate gate;
  rf_gate_enter(&gate);
  const int result = rf_gate_stands(&gate) ? rf_discard_range(&gate, at, size)
                                           : rf_real_madvise(at, size, MADV_REMOVE);
  const int saved = errno;
  rf_gate_leave(&gate);
  errno = saved;
  return result;
}

/* Preallocation of one block may take minutes, and the next block is mapped only afterwards. */
static int populate(void *at, size_t size) {
  rf_session_unsettled(1);
  const int result = rf_real_madvise(at, size, MADV_POPULATE_WRITE);
  const int saved = errno;
  rf_session_unsettled(-1);
  errno = saved;
  return result;
}

RF_EXPORT int madvise(void *at, size_t size, int advice) {
  switch (advice) {
    case MADV_REMOVE:
      if (rf_active() && rf_ram_overlaps(at, size)) return remove_range(at, size);
      break;
    case MADV_HUGEPAGE: /* a large page cannot be dropped in parts (D7), also later */
    case MADV_COLLAPSE:
    case MADV_MERGEABLE: /* KSM never merges RAM, which is shared, but copies of pages of a pool */
      if (rf_active() && rf_ram_overlaps(at, size)) return 0;
      break;
    case MADV_DOFORK: /* a child that maps RAM would read holes as zeros */
      if (rf_gate_standing() && rf_active() && rf_ram_overlaps(at, size)) return 0;
      break;
    case MADV_POPULATE_WRITE:
      if (rf_ram_overlaps(at, size) && rf_active()) return populate(at, size);
      break;
    case MADV_DONTNEED: /* a shared page stays in the RAM file; a copy of a pool's page would go */
      if (rf_active() && rf_ram_overlaps(at, size)) return rf_mapping_dontneed(at, size);
      break;
    case MADV_DODUMP:
    case MADV_DONTDUMP: {
      const int result = rf_real_madvise(at, size, advice);
      if (result == 0 && rf_active()) rf_ram_dump(at, size, advice == MADV_DODUMP);
      return result;
    }
    default: break;
  }
  return rf_real_madvise(at, size, advice);
}

/* No advice of posix_madvise loses data or makes pages huge. It is interposed only so that no call
   inside libc bypasses madvise() above. */
RF_EXPORT int posix_madvise(void *at, size_t size, int advice) {
  if (advice == POSIX_MADV_DONTNEED) return 0; /* as in glibc: it may not lose data */
  const int saved = errno;
  const int failed = rf_real_madvise(at, size, advice) == 0 ? 0 : errno;
  errno = saved;
  return failed;
}

/* Locked pages stay resident: nothing may be folded before or afterwards. */
static int lock_range(const void *at, size_t size, unsigned flags, bool with_flags) {
  struct rf_hazard_call call;
  const bool ram = rf_active() && rf_ram_overlaps(at, size);
  if (ram && rf_hazard_unfold(&call, RF_HAZARD_LOCK) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = with_flags ? rf_real_mlock2(at, size, flags) : rf_real_mlock(at, size);
  const int saved = errno;
  if (ram) rf_hazard_done(&call, result == 0);
  errno = saved;
  return result;
}

RF_EXPORT int mlock(const void *at, size_t size) { return lock_range(at, size, 0, false); }

RF_EXPORT int mlock2(const void *at, size_t size, unsigned flags) {
  return lock_range(at, size, flags, true);
}

RF_EXPORT int mlockall(int flags) {
  struct rf_hazard_call call;
  const bool ram = rf_active();
  if (ram && rf_hazard_unfold(&call, RF_HAZARD_LOCK) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_mlockall(flags);
  const int saved = errno;
  if (ram) rf_hazard_done(&call, result == 0);
  if (result == 0) rf_facts_add(RF_HAZARD_LOCK); /* also before there is RAM: MCL_FUTURE */
  errno = saved;
  return result;
}
