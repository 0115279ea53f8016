/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/hazard.h"

#include "agent/core/facts.h"
#include "agent/core/unfold.h"

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
  /* Also while the agent stands: this call asked for nothing if an earlier one had everything
     unfolded, and the attachment after this one must know of both. */
  if (happened) rf_facts_add(call->hazard);
  rf_gate_leave(&call->gate);
}
