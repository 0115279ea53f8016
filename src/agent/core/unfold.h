/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests that everything be unfolded before a hazard begins (RF_UNFOLD). QEMU's threads put them
 * into a small table and wait by short sleeps; the session's thread sends them, again after every
 * reconnection, and fills in the answers.
 *
 * A word holds a request's token and state together, so that an answer to a request whose waiter
 * gave up cannot be taken for the answer to the slot's next one.
 */
#ifndef RAMFOLD_AGENT_CORE_UNFOLD_H
#define RAMFOLD_AGENT_CORE_UNFOLD_H

#include <stdbool.h>
#include <stdint.h>

/* Any thread. 0: nothing is folded nor will be, or the agent does not stand. EBUSY: the hazard must
   not begin: the daemon said so, or no page has come back for RF_UNFOLD_MS_MAX. */
int rf_unfold_wait(uint32_t hazard);

/* The session's side. */
bool rf_unfold_next(uint32_t *token, uint32_t *hazard); /* marks it sent */
void rf_unfold_unsent(uint32_t token);
bool rf_unfold_wanted(void);
bool rf_unfold_is_released(void); /* the daemon has promised to fold no more; also any thread */
uint32_t rf_unfold_hazard(uint32_t token);           /* of a request that was sent; 0: unknown */
void rf_unfold_moved(uint32_t token, uint64_t done); /* so many pages have come back */
void rf_unfold_answer(uint32_t token, bool ok);      /* the thread that waits for it goes on */
void rf_unfold_again(void);             /* the connection ended: sent requests must be sent again */
void rf_unfold_released(bool released); /* a new attachment starts with false */

void rf_unfold_limit_ms(unsigned ms); /* shortens RF_UNFOLD_MS_MAX */

#endif
