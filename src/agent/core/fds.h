/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's own descriptors. Losing the userfaultfd would make every folded page read as zeros
 * (L1), so they are moved to high numbers, out of the way of loops that close everything and of
 * code that counts on small numbers, and close, close_range, dup2 and dup3 refuse to touch them.
 *
 * Threads: any; no locks.
 */
#ifndef RAMFOLD_AGENT_CORE_FDS_H
#define RAMFOLD_AGENT_CORE_FDS_H

#include <stdbool.h>

/* Takes `fd` over: moves it to a high number, close-on-exec. Returns the number to use from now on.
   A descriptor that cannot be moved or listed stays as it is: unprotected, but working. */
int rf_own_keep(int fd);
void rf_own_drop(int fd); /* closes; -1 is nothing */
bool rf_own_is(int fd);
/* The smallest of the agent's descriptors in [first, last], or -1. */
int rf_own_in(unsigned first, unsigned last);

#endif
