/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptors that travel over sockets: RAM files that go to another process (vhost-user), and
 * files that come in (add-fd, getfd).
 */
#include "agent/core/ram.h"
#include "agent/core/raw.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <errno.h>
#include <linux/if_xdp.h>
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

/* 0, or EBUSY: one of them may not be used now. */
static int look(struct msghdr *message) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
    for (size_t i = 0; i < fds_in(c); ++i)
      if (rf_hazard_descriptor(fd_of(c, i)) != 0) return EBUSY;
  return 0;
}

/* QEMU sees an error instead of the message, so it cannot close these. */
static void drop(struct msghdr *message) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
    for (size_t i = 0; i < fds_in(c); ++i) rf_sys_close(fd_of(c, i));
}

RF_EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  const ssize_t result = rf_real_recvmsg(fd, message, flags);
  if (result < 0 || !has_control(message) || !rf_active()) return result;
  const int saved = errno;
  if (look(message) != 0) {
    drop(message);
    errno = EBUSY;
    return -1;
  }
  errno = saved;
  return result;
}

RF_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                       struct timespec *timeout) {
  const int result = rf_real_recvmmsg(fd, messages, count, flags, timeout);
  if (result <= 0 || !rf_active()) return result;
  const int saved = errno;
  for (int i = 0; i < result; ++i) {
    if (!has_control(&messages[i].msg_hdr) || look(&messages[i].msg_hdr) == 0) continue;
    for (int k = 0; k < result; ++k)
      if (has_control(&messages[k].msg_hdr)) drop(&messages[k].msg_hdr);
    errno = EBUSY;
    return -1;
  }
  errno = saved;
  return result;
}

RF_EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t size) {
  struct rf_hazard_call call;
  const bool registers = level == SOL_XDP && option == XDP_UMEM_REG && rf_active();
  if (registers && rf_hazard_hold(&call, RF_HAZARD_FIXED_BUFFERS, true) != 0) {
    errno = EBUSY;
    return -1;
  }
  const int result = rf_real_setsockopt(fd, level, option, value, size);
  const int saved = errno;
  if (registers) rf_hazard_done(&call, false);
  errno = saved;
  return result;
}
