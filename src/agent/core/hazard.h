/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the host begins a hazard: a call that may begin only when nothing is folded.
 * Threads: any. errno is left alone.
 */
#ifndef RAMFOLD_AGENT_CORE_HAZARD_H
#define RAMFOLD_AGENT_CORE_HAZARD_H

#include "agent/core/gate.h"

#include <stdbool.h>

struct rf_hazard_call {
  struct rf_gate gate;
  uint32_t hazard;
};

/* Before the call: has everything unfolded. 0, or EBUSY: the call must not be made. */
int rf_hazard_unfold(struct rf_hazard_call *call, uint32_t hazard);
/* After the call, when rf_hazard_unfold() gave 0. `happened`: the hazard has begun, and cannot
   end in this process; it is noted. */
void rf_hazard_done(struct rf_hazard_call *call, bool happened);

#endif
