/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/message.h"

#include "agent/core/fds.h"
#include "agent/core/raw.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>

int rf_connect(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
  strcpy(address.sun_path, path);
  const int made =
      (int)rf_raw3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (made < 0) return made;
  const int fd = rf_own_keep(made);
  const int connected = (int)rf_raw3(SYS_connect, fd, (long)&address, sizeof address);
  if (connected < 0) {
    rf_own_drop(fd);
    return connected;
  }
  return fd;
}

int rf_send(int socket, void *message, size_t length, uint16_t type, uint16_t flags,
            uint32_t generation, const int *fds, unsigned fd_count) {
  *(struct rf_header *)message = (struct rf_header){.magic = RF_MAGIC,
                                                    .type = type,
                                                    .flags = flags,
                                                    .length = (uint32_t)length,
                                                    .generation = generation};
  struct iovec part = {message, length};
  struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * RF_FDS_MAX)];
  if (fd_count > 0) {
    memset(control, 0, sizeof control);
    packet.msg_control = control;
    packet.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
  }
  const long sent = rf_sys_sendmsg(socket, &packet, MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? (int)sent : 0;
}

bool rf_closed(int socket) {
  struct pollfd event = {socket, POLLRDHUP, 0};
  return rf_sys_poll(&event, 1, 0) != 0; /* an error counts as closed */
}

static void take_fds(struct msghdr *packet, struct rf_received *received) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(packet); c != NULL; c = CMSG_NXTHDR(packet, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < fds; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      if (received->fd < 0) {
        received->fd = rf_own_keep(fd);
      } else {
        rf_sys_close(fd);
      }
    }
  }
}

int rf_receive(int socket, struct rf_received *received) {
  struct iovec part = {received->message->bytes, RF_MESSAGE_MAX};
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * RF_RECEIVED_FDS_MAX)] = {0};
  struct msghdr packet = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  received->fd = -1;
  const long length = rf_sys_recvmsg(socket, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length == -EAGAIN || length == -EINTR) return 0;
  if (rf_hung_up(length)) return -1;
  if (length < 0) return -4;
  take_fds(&packet, received);
  const struct rf_header *h = &received->message->h;
  int result = 1;
  if ((size_t)length < sizeof *h || (packet.msg_flags & MSG_TRUNC) != 0) {
    result = -2;
  } else if (h->magic != RF_MAGIC) {
    result = -3;
  } else if (h->length != (uint32_t)length) {
    result = -2;
  }
  if (result != 1) {
    rf_own_drop(received->fd);
    received->fd = -1;
  }
  return result;
}
