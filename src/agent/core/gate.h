/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate between QEMU's calls and the daemon's folding, over the memory they share (wire.h).
 *
 * A call of QEMU's that matters enters the gate, asks whether the agent stands, and leaves when it
 * is done. The agent stands while a daemon has attached this VM, also when that daemon has died
 * since; it then delays hazards. RF_READY is sent when every call that entered before the agent
 * stood has left, so no such call is under way when folding begins.
 *
 * Threads: enter, leave and await any; the rest the session's. No lock is held while waiting.
 */
#ifndef RAMFOLD_AGENT_CORE_GATE_H
#define RAMFOLD_AGENT_CORE_GATE_H

#include "agent/wire.h"

#include <stdbool.h>
#include <stddef.h>

struct rf_gate_map; /* one mapping of shared memory, counted */

struct rf_gate {
  struct rf_gate_map *map; /* null: not standing, do as if the agent were absent */
  struct rf_shared *shared;
};

void rf_gate_enter(struct rf_gate *gate);
void rf_gate_leave(struct rf_gate *gate);
static inline bool rf_gate_stands(const struct rf_gate *gate) { return gate->map != NULL; }
/* The discard bits, one for each page. REQUIRES: stands. */
static inline _Atomic uint64_t *rf_gate_bits(const struct rf_gate *gate) {
  return (_Atomic uint64_t *)(void *)((char *)gate->shared + RF_SHARED_PAGE);
}

/* Between a discard's bits and its call (T5): waits until no fill is under way that may have looked
   at a bit before it was set. Returns 0, or EBUSY: then the call must not be made. `until`: 0 when
   the discard begins; it bounds all waits of one discard. REQUIRES: stands. */
int rf_gate_await_fills(struct rf_gate *gate, long *until);

/* The session's side. */
enum rf_published { RF_PUBLISHED, RF_PUBLISH_INVALID, RF_PUBLISH_BUSY };
/* Maps `fd` and closes it. From now on the agent stands. */
enum rf_published rf_gate_publish(int fd, uint64_t pages, uint32_t generation);
bool rf_gate_quiet(void); /* every call from before the publication has ended */
/* The daemon of this generation has closed the connection. If it died, its fills have ended,
   whatever its filling words say. */
void rf_gate_hung_up(uint32_t generation);
/* The daemon that has the VM, as rf_shared.session; 0: none, or not standing. */
uint32_t rf_gate_session(void);
bool rf_gate_standing(void);
bool rf_gate_folded(void); /* pages may be folded */
void rf_gate_sticky(uint32_t hazards);

void rf_gate_limit_hold_ms(unsigned ms); /* shortens RF_HOLD_MS_MAX */

#endif
