/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each part of the agent does when it must begin anew. Each part registers its own functions,
 * so that there is no list of all. They are called in no particular order.
 *
 *   child      this process is a fork child: only one thread is left, any lock may be held by one
 *              that no longer exists, nothing here is ours. Atomics and system calls only.
 *   detached   the daemon keeps nothing of this VM: delay no call. On the session's thread.
 *
 * Threads: registering any, before main() as well; the rest as said.
 */
#ifndef RAMFOLD_AGENT_CORE_RESET_H
#define RAMFOLD_AGENT_CORE_RESET_H

struct rf_reset {
  void (*child)(void);    /* or null */
  void (*detached)(void); /* or null */
  struct rf_reset *next;  /* the list's */
};

/* Call it once for each part. A part is never removed. */
void rf_reset_register(struct rf_reset *part);
void rf_reset_child(void);
void rf_reset_detached(void);

/* Registers the functions of the part that is in this file. */
#define RF_RESET(child_function, detached_function)                           \
  __attribute__((constructor)) static void register_reset(void) {             \
    static struct rf_reset part = {(child_function), (detached_function), 0}; \
    rf_reset_register(&part);                                                 \
  }                                                                           \
  struct rf_reset /* takes the semicolon */

#endif
