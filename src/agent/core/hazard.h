/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two ways to let a hazard begin, in the shape in which the host needs them.
 * Threads: any. errno is left alone.
 */
#ifndef RAMFOLD_AGENT_CORE_HAZARD_H
#define RAMFOLD_AGENT_CORE_HAZARD_H

#include "agent/core/gate.h"

#include <stdbool.h>

/* A descriptor that QEMU is about to see. It is in the descriptor table already, so whoever reads
   the facts after the sequence moved finds it. 0, or EBUSY: QEMU must not get it. */
int rf_hazard_descriptor(int fd);

/* For a hazard that the caller is about to begin with a call of its own: */
struct rf_hazard_call {
  struct rf_gate gate;
  uint32_t hazard;
  bool held;
};
/* ... which only in-flight reads make dangerous (waits for runs under way; `lasting`: it cannot end
   in this process, and only its first time waits). */
int rf_hazard_hold(struct rf_hazard_call *call, uint32_t hazard, bool lasting);
/* ... which may only begin with nothing folded. */
int rf_hazard_unfold(struct rf_hazard_call *call, uint32_t hazard);
/* After the call; `happened`: it did not fail. */
void rf_hazard_done(struct rf_hazard_call *call, bool happened);

#endif
