/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM files that go to another process over a socket (vhost-user, vfio-user, CPR). That process
 * would read folded pages as zeros (D13).
 */
#include "agent/core/ram.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static size_t fds_in(const struct cmsghdr *c) {
  if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) return 0;
  return c->cmsg_len < CMSG_LEN(0) ? 0 : (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

static int fd_of(struct cmsghdr *c, size_t i) {
  int fd;
  memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
  return fd;
}

/* Most messages carry no descriptors: told by one comparison. */
static bool has_control(const struct msghdr *message) {
  return message->msg_control != NULL && message->msg_controllen >= sizeof(struct cmsghdr);
}

static bool passes_ram(const struct msghdr *constant) {
  if (!has_control(constant)) return false;
  struct msghdr message = *constant;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c))
    for (size_t i = 0; i < fds_in(c); ++i)
      if (rf_ram_is_file(fd_of(c, i), NULL, NULL)) return true;
  return false;
}

RF_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (!has_control(message) || !rf_active() || !passes_ram(message))
    return rf_real_sendmsg(fd, message, flags);
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_RAM_FD_PASSED) != 0) {
    errno = EBUSY;
    return -1;
  }
  const ssize_t result = rf_real_sendmsg(fd, message, flags);
  const int saved = errno;
  rf_hazard_done(&call, result >= 0);
  errno = saved;
  return result;
}

RF_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  bool passes = false;
  if (rf_active())
    for (unsigned i = 0; i < count && !passes; ++i) passes = passes_ram(&messages[i].msg_hdr);
  if (!passes) return rf_real_sendmmsg(fd, messages, count, flags);
  struct rf_hazard_call call;
  if (rf_hazard_unfold(&call, RF_HAZARD_RAM_FD_PASSED) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_sendmmsg(fd, messages, count, flags);
  const int saved = errno;
  rf_hazard_done(&call, result > 0);
  errno = saved;
  return result;
}
