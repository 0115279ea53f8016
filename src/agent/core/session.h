/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's one thread: waits until QEMU has mapped its RAM, connects to the daemon, serves it,
 * and connects again for ever when it goes. Never touches guest RAM, holds no lock, allocates
 * nothing.
 *
 * Threads: start, wake and unsettled from any thread at home.
 */
#ifndef RAMFOLD_AGENT_CORE_SESSION_H
#define RAMFOLD_AGENT_CORE_SESSION_H

#include <stdint.h>

void rf_session_start(void); /* once a process, and again in a fork child that became a home */
void rf_session_wake(void);
/* 1: QEMU has begun a call which shows that it is still starting. -1: that call has ended. The
   offer waits until all have ended. */
void rf_session_unsettled(int change);

#endif
