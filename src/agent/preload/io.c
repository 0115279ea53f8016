/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests by which a device begins to use guest RAM in a way that folded pages do not survive, and
 * a further userfaultfd. The request is held, not the opening of the device: an open device does
 * nothing yet, and the request is seen however QEMU came by the descriptor. Also libc's syscall(),
 * which can make several of these calls.
 *
 *   way to RAM                             requests               a folded page
 *   the RAM file (its own page cache)      UDMABUF_CREATE*,       is replaced by a page of zeros
 *                                          IOMMU_IOAS_MAP_FILE
 *   the RAM file, handed to a process      VHOST_SET_OWNER of a   reads as zeros there
 *   that maps it (VDUSE)                   vDPA device
 *   addresses in QEMU, by a pin that       VFIO_IOMMU_MAP_DMA,    fails the request; of a mediated
 *   cannot wait for a userfaultfd          vDPA                   device, the guest's I/O
 *
 * Everything else pins by address, waits for the daemon as a thread of QEMU's would, and holds what
 * it has pinned, which the gate sees: vhost-scsi, vhost-net, IOMMU_IOAS_MAP, RDMA, GPUs, SG_IO,
 * io_uring, O_DIRECT.
 */
#include "agent/core/raw.h"
#include "agent/core/session.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <linux/udmabuf.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#define IOMMU_IOAS_MAP_FILE _IO(';', 0x8f) /* of linux/iommufd.h, since Linux 6.13 */

#define MISC_MAJOR 10

/* A vDPA device has a number of its own. Other vhost devices are miscellaneous ones: net, vsock,
   scsi. */
static bool is_vdpa(int fd) {
  struct stat s = {0};
  return rf_sys_fstat(fd, &s) == 0 && S_ISCHR(s.st_mode) && major(s.st_rdev) != MISC_MAJOR;
}

/* The kernel driver of a mediated device pins a page at the moment that the guest names it for I/O.
   A device that is not mediated is a PCI device, which is named by its place: 0000:01:00.0. */
static bool is_mediated(const char *device) {
  return device != NULL && strchr(device, ':') == NULL;
}

/* QEMU maps the registers of devices too. */
static bool maps_ram(const struct vfio_iommu_type1_dma_map *map) {
  return map != NULL && rf_ram_overlaps((const void *)map->vaddr, map->size);
}

/* The hazard that a request begins; 0: none. */
static uint32_t hazard_of(int fd, unsigned long request, const void *argument) {
  switch ((uint32_t)request) {
    case USERFAULTFD_IOC_NEW: return RF_HAZARD_OTHER_UFFD;
    case UDMABUF_CREATE:
    case UDMABUF_CREATE_LIST:
    case IOMMU_IOAS_MAP_FILE: /* a device that is attached later takes the pages then */
      return RF_HAZARD_DEVICE;
    case VFIO_IOMMU_MAP_DMA: return maps_ram(argument) ? 0u | RF_HAZARD_DEVICE : 0u;
    /* vDPA devices are told of RAM by write(2), which they refuse before they have an owner. */
    case VHOST_SET_OWNER: return is_vdpa(fd) ? 0u | RF_HAZARD_DEVICE : 0u;
    case VFIO_GROUP_GET_DEVICE_FD: return is_mediated(argument) ? 0u | RF_HAZARD_DEVICE : 0u;
    default: return 0;
  }
}

static int control_unfolded(int fd, unsigned long request, void *argument, uint32_t hazard) {
  /* What is mapped holds its pages, and the gate sees that. So an earlier MAP_DMA is no hazard. It
     may take minutes, while QEMU is still starting. */
  const bool maps = (uint32_t)request == VFIO_IOMMU_MAP_DMA;
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, hazard) != 0) {
    errno = EBUSY;
    return -1;
  }
  if (maps) rf_session_unsettled(1);
  const int result = rf_real_ioctl(fd, request, argument);
  const int saved = errno;
  if (maps) rf_session_unsettled(-1);
  rf_hazard_done(&call, result >= 0 && !maps);
  errno = saved;
  return result;
}

RF_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  const uint32_t hazard = hazard_of(fd, request, argument);
  if (hazard != 0 && rf_active()) return control_unfolded(fd, request, argument, hazard);
  return rf_real_ioctl(fd, request, argument);
}

/* ---- syscall() ---- */

static long userfaultfd_unfolded(long flags) {
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_OTHER_UFFD) != 0) {
    errno = EBUSY;
    return -1;
  }
  const long result = rf_raw3(SYS_userfaultfd, flags, 0, 0);
  rf_hazard_done(&call, result >= 0);
  return rf_result(result);
}

/*
 * Reads six arguments whatever their number: the unused ones are whatever the registers and the
 * stack hold, as in libc's own, and the kernel ignores them.
 */
RF_EXPORT long syscall(long nr, ...) {
  long a[6];
  va_list arguments;
  va_start(arguments, nr);
  for (int i = 0; i < 6; ++i) a[i] = va_arg(arguments, long);
  va_end(arguments);
  switch (nr) {
    case SYS_userfaultfd:
      if (rf_active()) return userfaultfd_unfolded(a[0]);
      break;
    case SYS_ioctl: return ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]);
    case SYS_close: return close((int)a[0]);
    case SYS_close_range: return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
    case SYS_mlock2: return mlock2((const void *)a[0], (size_t)a[1], (unsigned)a[2]);
    case SYS_execveat:
      return execveat((int)a[0], (const char *)a[1], (char *const *)a[2], (char *const *)a[3],
                      (int)a[4]);
    default: break;
  }
  return rf_result(rf_raw6(nr, a[0], a[1], a[2], a[3], a[4], a[5]));
}
