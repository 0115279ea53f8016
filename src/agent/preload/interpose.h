/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the interposed functions have in common. Threads: any. */
#ifndef RAMFOLD_AGENT_PRELOAD_INTERPOSE_H
#define RAMFOLD_AGENT_PRELOAD_INTERPOSE_H

#include "agent/core/hazard.h"
#include "agent/core/ram.h"
#include "agent/preload/process.h"

#define RF_EXPORT __attribute__((visibility("default")))

/* Is this process a home with RAM? In any other the functions are transparent. */
static inline bool rf_active(void) { return rf_ram_count() != 0 && rf_at_home(); }

#endif
