/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hazards that are known: of open descriptors, and of calls that were made.
 * Threads: any; no locks.
 */
#ifndef RAMFOLD_AGENT_CORE_FACTS_H
#define RAMFOLD_AGENT_CORE_FACTS_H

#include <stdint.h>

/* Notes hazards that have begun. rf_facts_lasting(): those that cannot end in this process. */
void rf_facts_add(uint32_t hazards);
uint32_t rf_facts_lasting(void);

/* RF_HAZARD_* of one open descriptor; 0 for a harmless or closed one. errno is left alone. */
uint32_t rf_facts_of(int fd);
/* Marks the hazardous ones of all open descriptors, so that their closing is noticed. The daemon
   finds them itself, in /proc. The agent's thread only. */
void rf_facts_mark_open(void);

#endif
