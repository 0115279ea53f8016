/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two ways to let a hazard begin, as the host calls them: wait for the daemon's runs under way,
 * or have everything unfolded.
 * Threads: any. errno is left alone.
 */
#ifndef RAMFOLD_AGENT_CORE_HAZARD_H
#define RAMFOLD_AGENT_CORE_HAZARD_H

#include "agent/core/gate.h"

#include <stdbool.h>

/* For a descriptor that QEMU is about to get. It is in the descriptor table already, so the daemon
   finds it when it reads the facts after the sequence has moved. 0, or EBUSY: QEMU must not get
   it. */
int rf_hazard_descriptor(int fd);

/* For a hazard that the caller is about to begin with a call of its own: */
struct rf_hazard_call {
  struct rf_gate gate;
  uint32_t hazard;
  bool held;
};
/* ... that is dangerous only to runs under way: waits for them. `lasting`: the hazard cannot end in
   this process, and only its first call waits. */
int rf_hazard_hold(struct rf_hazard_call *call, uint32_t hazard, bool lasting);
/* ... that may begin only when nothing is folded: has everything unfolded. */
int rf_hazard_unfold(struct rf_hazard_call *call, uint32_t hazard);
/* After the call. `happened`: the hazard has begun; it is noted if the agent does not stand. */
void rf_hazard_done(struct rf_hazard_call *call, bool happened);

#endif
