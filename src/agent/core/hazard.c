/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/hazard.h"

#include "agent/core/facts.h"
#include "agent/core/fds.h"
#include "agent/core/unfold.h"

#include <errno.h>

/* Lasting hazards that have waited once: the daemon has seen their sticky bit and folds no more. */
static _Atomic uint32_t held_for;

int rf_hazard_descriptor(int fd) {
  const uint32_t hazard = rf_facts_of(fd);
  if (hazard == 0) return 0;
  rf_hazardous_set(fd);
  struct rf_gate gate;
  rf_gate_enter(&gate);
  const bool stands = rf_gate_stands(&gate);
  int failed = 0;
  if (stands && (hazard & RF_HAZARD_DEVICE) == 0) {
    /* A generic SCSI device takes reads without SG_IO too. */
    const bool lasting = (hazard & RF_HAZARD_SG_IO) != 0;
    failed = rf_gate_hold(&gate, hazard, lasting);
    if (failed == 0) rf_gate_began(&gate);
  }
  rf_gate_leave(&gate); /* before the unfolding: that may need a reconnection, which waits here */
  if (stands && (hazard & RF_HAZARD_DEVICE) != 0) failed = rf_unfold_wait(RF_HAZARD_DEVICE);
  if (failed != 0) (void)rf_hazardous_clear(fd);
  return failed;
}

int rf_hazard_hold(struct rf_hazard_call *call, uint32_t hazard, bool lasting) {
  *call = (struct rf_hazard_call){.hazard = hazard};
  rf_gate_enter(&call->gate);
  if (!rf_gate_stands(&call->gate)) {
    if (lasting) rf_facts_add(hazard);
    return 0;
  }
  if (lasting && (atomic_load(&call->gate.shared->sticky) & hazard) != 0 &&
      (atomic_load(&held_for) & hazard) != 0)
    return 0;
  const int failed = rf_gate_hold(&call->gate, hazard, lasting);
  if (failed != 0) {
    rf_gate_leave(&call->gate);
    return failed;
  }
  call->held = true;
  if (lasting) atomic_fetch_or(&held_for, hazard);
  return 0;
}

int rf_hazard_unfold(struct rf_hazard_call *call, uint32_t hazard) {
  *call = (struct rf_hazard_call){.hazard = hazard};
  for (;;) {
    rf_gate_enter(&call->gate);
    /* This call has entered: no folding begins before it leaves. */
    if (!rf_gate_stands(&call->gate) || rf_unfold_is_released()) return 0;
    rf_gate_leave(&call->gate);
    /* This answer may concern an attachment that is over, and another may have begun. So the loop
       looks again, inside the gate. */
    const int failed = rf_unfold_wait(hazard);
    if (failed != 0) return failed;
  }
}

void rf_hazard_done(struct rf_hazard_call *call, bool happened) {
  if (call->held) rf_gate_began(&call->gate);
  if (!rf_gate_stands(&call->gate) && happened) rf_facts_add(call->hazard);
  rf_gate_leave(&call->gate);
}
