/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hazards that have begun in this process and cannot end in it.
 * Threads: any; no locks.
 */
#ifndef RAMFOLD_AGENT_CORE_FACTS_H
#define RAMFOLD_AGENT_CORE_FACTS_H

#include <stdint.h>

void rf_facts_add(uint32_t hazards);
uint32_t rf_facts_lasting(void);

#endif
