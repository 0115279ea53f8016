/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection to the daemon, from the hello to its end: carries out the daemon's messages, and
 * sends the agent's. The userfaultfd and the instance that the daemon gave this process outlive it.
 *
 * Threads: the session's thread alone.
 */
#ifndef RAMFOLD_AGENT_CORE_CONNECTION_H
#define RAMFOLD_AGENT_CORE_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

struct rf_connection {
  int socket;
  uint32_t generation;
  bool welcomed, serving;
  bool ready_due; /* attached; RF_READY follows when the gate is quiet */
  bool refused;
  bool over;      /* this connection is to end */
  bool gone;      /* the daemon closed it, or died */
  bool fenced;    /* the daemon has made sure that no older command runs */
  bool attached;  /* rf_shared.session tells which daemon has the VM */
  bool small;     /* the hello said that RAM holds no large folio */
  uint64_t at[2]; /* device and inode of the socket's file when it was made; 0: not known */
};

/* An error of the socket sets `over`; so does a message that the daemon may not send. */
void rf_connection_hello(struct rf_connection *c);
void rf_connection_receive(struct rf_connection *c); /* one message, if there is one */
/* RF_READY, once the gate is quiet; then `serving` instead of `ready_due`. */
void rf_connection_ready(struct rf_connection *c);
/* Sends every request to unfold that was not sent yet. REQUIRES: serving. */
void rf_connection_unfolds(struct rf_connection *c);
/* The device and inode of the file that a path names, as rf_connection.at. */
void rf_connection_path(const char *path, uint64_t at[2]);
/* Sets `over` when another daemon has taken the place of this one. A daemon that was killed may
   never close its connection: some process holds a thread of it in a system call, and with that
   its descriptors. */
void rf_connection_look(struct rf_connection *c, const char *path);

#endif
