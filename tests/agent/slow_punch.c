// SPDX-License-Identifier: GPL-2.0-or-later
// Preloaded behind the agent: stops each fallocate and madvise(MADV_REMOVE) just before the kernel
// would see it and asks the test, over the descriptor RF_TEST_PROBE, what to do: 'g' go on, 'f'
// fail with EIO. So the test can look at what the agent had done by then.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int told_to_fail(void) {
  const char* text = getenv("RF_TEST_PROBE");
  if (text == NULL) return 0;
  const int fd = atoi(text);
  char order = 's';
  if (write(fd, &order, 1) != 1 || read(fd, &order, 1) != 1) return 0;
  return order == 'f';
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  if (told_to_fail()) {
    errno = EIO;
    return -1;
  }
  return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

int madvise(void* at, size_t size, int advice) {
  if (advice == MADV_REMOVE && told_to_fail()) {
    errno = EIO;
    return -1;
  }
  return (int)syscall(SYS_madvise, at, size, advice);
}
