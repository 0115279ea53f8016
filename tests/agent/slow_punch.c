// SPDX-License-Identifier: GPL-2.0-or-later
// Preloaded behind the agent: stops each fallocate and madvise(MADV_REMOVE) just before the kernel
// would see it and asks the test, over the descriptor RF_TEST_PROBE, what to do: 'g' go on, 'f'
// fail with EIO. So the test can look at what the agent had done by then. Counts the calls under
// way that a folded page would not survive, in the memory of the descriptor RF_TEST_LIVE. Stands in
// for devices that are not here: what they are asked for succeeds.
#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
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

static _Atomic long* live;

__attribute__((constructor)) static void find_live(void) {
  const char* text = getenv("RF_TEST_LIVE");
  if (text == NULL) return;
  void* at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(text), 0);
  if (at != MAP_FAILED) live = at;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  if (live != NULL && ((mode & FALLOC_FL_PUNCH_HOLE) == 0 || (offset | size) % 4096 != 0)) {
    ++*live;
    usleep(20);
    const int result = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    --*live;
    return result;
  }
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

int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  switch (request) {
    case UDMABUF_CREATE:
    case UDMABUF_CREATE_LIST:
    case VFIO_IOMMU_MAP_DMA:
    case VFIO_GROUP_GET_DEVICE_FD:
    case VHOST_SET_OWNER:
    case _IO(';', 0x8f): /* IOMMU_IOAS_MAP_FILE */ return 0;
    default: return (int)syscall(SYS_ioctl, fd, request, argument);
  }
}
