/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is this process the agent's home? The home is the one process that mapped the RAM. In processes
 * forked from it the interposers are transparent, because a child's descriptors and its exec do not
 * concern the VM. A child that maps RAM of its own becomes a home in its turn, which is how
 * `-daemonize` works.
 */
#ifndef RAMFOLD_AGENT_PRELOAD_PROCESS_H
#define RAMFOLD_AGENT_PRELOAD_PROCESS_H

#include <stdbool.h>

bool rf_at_home(void); /* false before there is RAM, and in children */
/* Makes this process the home. False when it is a child that shares the home's memory (vfork). */
bool rf_make_home(void);

#endif
