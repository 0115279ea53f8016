/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the agent's core needs of a host, for tests that have it in their own process. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "agent/core/discard.h"
#include "agent/core/gate.h"
#include "agent/core/host.h"

static const char *setting(const char *name) {
  (void)name;
  return NULL;
}
static void say(const char *line, size_t length) {
  (void)line;
  (void)length;
}
const struct rf_host rf_host = {
    .setting = setting, .say = say, .fallocate = fallocate, .madvise = madvise};

/* A discard of QEMU's. 0 or an errno. */
int rf_test_discard(int fd, off_t offset, off_t size);
int rf_test_discard(int fd, off_t offset, off_t size) {
  struct rf_gate gate;
  struct stat s;
  if (fstat(fd, &s) != 0) return errno;
  rf_gate_enter(&gate);
  const int result = rf_discard_file(&gate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                     size, s.st_dev, s.st_ino);
  const int error = result == 0 ? 0 : errno;
  rf_gate_leave(&gate);
  return error;
}
