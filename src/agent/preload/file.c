/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Calls that change a RAM file through its descriptor. */
#include "agent/core/discard.h"
#include "agent/core/ram.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static bool whole_pages(off_t offset, off_t size) {
  return offset >= 0 && size > 0 && ((offset | size) & (off_t)(RF_SHARED_PAGE - 1)) == 0 &&
         offset <= INT64_MAX - size;
}

/* For calls that fill a hole, zero a part of it, or move it: the hole may be a folded page. */
static int change_unfolded(int fd, int mode, off_t offset, off_t size) {
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_REMAP) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_fallocate(fd, mode, offset, size);
  const int saved = errno;
  rf_hazard_done(&call, false); /* not standing: it did no harm */
  errno = saved;
  return result;
}

static int allocate(int fd, int mode, off_t offset, off_t size) {
  uint64_t device;
  uint64_t inode;
  if (!rf_active() || !rf_ram_is_file(fd, &device, &inode))
    return rf_real_fallocate(fd, mode, offset, size);
  if ((mode & FALLOC_FL_PUNCH_HOLE) == 0) rf_ram_filled(device, inode);
  if ((mode & FALLOC_FL_PUNCH_HOLE) == 0 || !whole_pages(offset, size))
    return change_unfolded(fd, mode, offset, size);
  struct rf_gate gate;
  rf_gate_enter(&gate);
  const int result = rf_gate_stands(&gate)
                         ? rf_discard_file(&gate, fd, mode, offset, size, device, inode)
                         : rf_real_fallocate(fd, mode, offset, size);
  const int saved = errno;
  rf_gate_leave(&gate);
  errno = saved;
  return result;
}

RF_EXPORT int fallocate(int fd, int mode, off_t offset, off_t size) {
  return allocate(fd, mode, offset, size);
}

RF_EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  return allocate(fd, mode, offset, size);
}

/* Returns the error and leaves errno alone, unlike fallocate. */
static int posix_allocate(int fd, off_t offset, off_t size) {
  const int saved = errno;
  int failed;
  if (rf_active() && rf_ram_is_file(fd, NULL, NULL)) {
    failed = allocate(fd, 0, offset, size) == 0 ? 0 : errno;
  } else {
    failed = rf_real_posix_fallocate(fd, offset, size);
  }
  errno = saved;
  return failed;
}

RF_EXPORT int posix_fallocate(int fd, off_t offset, off_t size) {
  return posix_allocate(fd, offset, size);
}

RF_EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t size) {
  return posix_allocate(fd, offset, size);
}

static int truncate_file(int fd, off_t size) {
  struct rf_hazard_call call;
  const bool ram = rf_active() && rf_ram_is_file(fd, NULL, NULL);
  if (ram && rf_hazard_unfold(&call, RF_HAZARD_REMAP) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_ftruncate(fd, size);
  const int saved = errno;
  if (ram) rf_hazard_done(&call, false);
  errno = saved;
  return result;
}

RF_EXPORT int ftruncate(int fd, off_t size) { return truncate_file(fd, size); }
RF_EXPORT int ftruncate64(int fd, off64_t size) { return truncate_file(fd, size); }
