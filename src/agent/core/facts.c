/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/facts.h"

#include "agent/wire.h"

#include <stdatomic.h>

static _Atomic uint32_t lasting;

/* A userfaultfd of QEMU's own ends with its descriptor, which the daemon sees in /proc. So it is
   not noted here. The attachment in which it began stays unfolded: rf_shared.sticky says so. */
void rf_facts_add(uint32_t hazards) {
  atomic_fetch_or(&lasting, hazards & ~(uint32_t)RF_HAZARD_OTHER_UFFD);
}
uint32_t rf_facts_lasting(void) { return atomic_load(&lasting); }
