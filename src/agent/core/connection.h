/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection to the daemon, from the hello to its end: what the daemon's messages do, and what
 * is said to it. The userfaultfd and the name that the daemon gave this process outlive it.
 *
 * Threads: the session's thread alone.
 */
#ifndef RAMFOLD_AGENT_CORE_CONNECTION_H
#define RAMFOLD_AGENT_CORE_CONNECTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rf_connection {
  int socket;
  uint32_t generation;
  bool welcomed, serving;
  bool ready_due; /* attached; RF_READY follows when the gate is quiet */
  bool refused;
  bool over;      /* no more of this connection */
  bool gone;      /* the daemon closed it, or died */
  bool fenced;    /* the daemon has made sure that no older command runs */
  bool attached;  /* the shared memory says whose the VM is */
  bool small;     /* it was said that RAM holds no large folio */
  uint64_t at[2]; /* device and inode of the socket's file when it was made; 0: not known */
};

/* An error of the socket, and all that the daemon may not say, sets `over`. */
void rf_connection_hello(struct rf_connection *c);
void rf_connection_receive(struct rf_connection *c); /* one message, if there is one */
/* RF_READY, once the gate is quiet; then `serving` instead of `ready_due`. */
void rf_connection_ready(struct rf_connection *c);
/* RF_HOLD or RF_CHANGED with the hazards taken out of *hints, if any. REQUIRES: serving. */
void rf_connection_hint(struct rf_connection *c, uint16_t type, _Atomic uint32_t *hints);
/* Every wish to have all unfolded that was not sent yet. REQUIRES: serving. */
void rf_connection_unfolds(struct rf_connection *c);
/* Which file a path names, as rf_connection.at. */
void rf_connection_path(const char *path, uint64_t at[2]);
/* A daemon that was killed may never close a connection: some process holds a thread of it in a
   system call, and so its descriptors. Whether another has taken its place: then it is `over`. */
void rf_connection_look(struct rf_connection *c, const char *path);

#endif
