/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets of wire.h over the daemon's socket, with descriptors. Nothing here waits.
 * Threads: the session's.
 */
#ifndef RAMFOLD_AGENT_CORE_MESSAGE_H
#define RAMFOLD_AGENT_CORE_MESSAGE_H

#include "agent/wire.h"

#include <errno.h>
#include <stdbool.h>

/* Most descriptors that the daemon may send with one message. */
#define RF_RECEIVED_FDS_MAX 2

union rf_message {
  struct rf_header h;
  struct rf_welcome welcome;
  struct rf_attached attached;
  struct rf_unfolded unfolded;
  struct rf_unfolding unfolding;
  struct rf_refused refused;
  struct rf_command command;
  char bytes[RF_MESSAGE_MAX];
};

struct rf_received {
  union rf_message *message;
  int fd; /* -1: none. Kept already (fds.h); the handler of the message takes it over */
};

/* Returns the socket (kept, see fds.h) or -errno. */
int rf_connect(const char *path);

/* Fills in the header. 0 or -errno; -EAGAIN when the daemon does not read. */
int rf_send(int socket, void *message, size_t length, uint16_t type, uint16_t flags,
            uint32_t generation, const int *fds, unsigned fd_count);

/* Does a read's result say that the other end has closed, or died? Other errors do not tell. */
static inline bool rf_hung_up(long length) { return length == 0 || length == -ECONNRESET; }

/* Has the other end closed, or died? Also when messages of it are not read yet. */
bool rf_closed(int socket);

/* 1: received, 0: nothing there, -1: the other end has closed, -2: not the protocol, -3: not a
   version of it we know, -4: an error. */
int rf_receive(int socket, struct rf_received *received);

#endif
