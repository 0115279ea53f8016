/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a part of the agent does when its life begins anew. Each part registers its own functions,
 * so that nobody has a list of all. They are called in no particular order.
 *
 *   child      this process is a fork child: only one thread is left, any lock may be held by one
 *              that no longer exists, nothing here is ours. Atomics and system calls only.
 *   detached   the daemon keeps nothing of this VM: stand before nothing. On the session's thread.
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

/* Once for each; it is never taken out. */
void rf_reset_register(struct rf_reset *part);
void rf_reset_child(void);
void rf_reset_detached(void);

/* The functions of the part that this file is. */
#define RF_RESET(child_function, detached_function)                           \
  __attribute__((constructor)) static void register_reset(void) {             \
    static struct rf_reset part = {(child_function), (detached_function), 0}; \
    rf_reset_register(&part);                                                 \
  }                                                                           \
  struct rf_reset /* takes the semicolon */

#endif
