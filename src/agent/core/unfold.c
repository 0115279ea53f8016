/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/unfold.h"

#include "agent/core/gate.h"
#include "agent/core/raw.h"
#include "agent/core/reset.h"
#include "agent/core/session.h"
#include "agent/wire.h"

#include <errno.h>
#include <stdatomic.h>

#define REQUESTS_MAX 16 /* threads that wait at once; more wait for a slot */
#define PAUSE_US_MIN 50u
#define PAUSE_US_MAX 4000u

enum state { FREE, CLAIMED, WANTED, SENT, YES, NO };

static struct {
  _Atomic uint64_t word; /* token << 8 | state */
  _Atomic uint32_t hazard;
  /* token << 32 | the low half of rf_now_ms(): since when its time counts, at first or anew. The
     token is in it so that progress of an older request cannot prolong this one. */
  _Atomic uint64_t since;
} requests[REQUESTS_MAX];

/* The session's thread only. */
static struct {
  uint32_t token;
  uint64_t done; /* pages, as last heard of */
} heard[REQUESTS_MAX];

static _Atomic uint32_t last_token;
static atomic_bool released; /* the daemon has unfolded all and promised to fold no more */
static _Atomic uint32_t unfold_ms = RF_UNFOLD_MS_MAX;

static uint64_t word_of(uint32_t token, enum state state) {
  return (uint64_t)token << 8 | (uint64_t)state;
}
static enum state state_of(uint64_t word) { return (enum state)(word & 0xff); }
static uint32_t token_of(uint64_t word) { return (uint32_t)(word >> 8); }

void rf_unfold_limit_ms(unsigned ms) {
  if (ms < RF_UNFOLD_MS_MAX) atomic_store(&unfold_ms, ms);
}

static uint64_t since_of(uint32_t token, long ms) { return (uint64_t)token << 32 | (uint32_t)ms; }

static uint32_t passed_ms(uint64_t since) { return (uint32_t)rf_now_ms() - (uint32_t)since; }

static int claim(void) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    uint64_t word = atomic_load(&requests[i].word);
    if (state_of(word) != FREE) continue;
    if (atomic_compare_exchange_strong(&requests[i].word, &word, word_of(0, CLAIMED))) return i;
  }
  return -1;
}

/* Ends a request. Its answer may have arrived at the last moment. */
static int give_up(int slot, uint32_t token) {
  for (;;) {
    uint64_t word = atomic_load(&requests[slot].word);
    const enum state state = state_of(word);
    if (!atomic_compare_exchange_strong(&requests[slot].word, &word, word_of(token, FREE)))
      continue;
    return state == YES ? 0 : EBUSY;
  }
}

int rf_unfold_wait(uint32_t hazard) {
  if (!rf_gate_standing() || atomic_load(&released)) return 0;
  const long began = rf_now_ms();
  const uint32_t limit = atomic_load(&unfold_ms);
  unsigned pause = PAUSE_US_MIN;
  int slot = -1;
  uint32_t token = 0;
  for (;;) {
    if (slot < 0 && (slot = claim()) >= 0) {
      token = atomic_fetch_add(&last_token, 1) + 1;
      atomic_store(&requests[slot].hazard, hazard);
      atomic_store(&requests[slot].since, since_of(token, began));
      atomic_store(&requests[slot].word, word_of(token, WANTED));
      rf_session_wake();
    }
    if (slot >= 0) {
      const enum state state = state_of(atomic_load(&requests[slot].word));
      if (state == YES || state == NO || !rf_gate_standing()) {
        const int result = give_up(slot, token);
        return rf_gate_standing() ? result : 0;
      }
    }
    const uint64_t since = slot < 0 ? since_of(0, began) : atomic_load(&requests[slot].since);
    if (passed_ms(since) >= limit) return slot < 0 ? EBUSY : give_up(slot, token);
    rf_sleep_us(pause);
    if (pause < PAUSE_US_MAX) pause *= 2;
  }
}

bool rf_unfold_wanted(void) {
  for (int i = 0; i < REQUESTS_MAX; ++i)
    if (state_of(atomic_load(&requests[i].word)) == WANTED) return true;
  return false;
}

bool rf_unfold_next(uint32_t *token, uint32_t *hazard) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    uint64_t word = atomic_load(&requests[i].word);
    if (state_of(word) != WANTED) continue;
    *token = token_of(word);
    *hazard = atomic_load(&requests[i].hazard);
    if (atomic_compare_exchange_strong(&requests[i].word, &word, word_of(*token, SENT)))
      return true;
  }
  return false;
}

static void change(uint32_t token, enum state from, enum state to) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    uint64_t word = word_of(token, from);
    if (atomic_compare_exchange_strong(&requests[i].word, &word, word_of(token, to))) return;
  }
}

void rf_unfold_unsent(uint32_t token) { change(token, SENT, WANTED); }

uint32_t rf_unfold_hazard(uint32_t token) {
  for (int i = 0; i < REQUESTS_MAX; ++i)
    if (atomic_load(&requests[i].word) == word_of(token, SENT))
      return atomic_load(&requests[i].hazard);
  return 0;
}

void rf_unfold_moved(uint32_t token, uint64_t done) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    if (atomic_load(&requests[i].word) != word_of(token, SENT)) continue;
    if (heard[i].token != token) {
      heard[i].token = token;
      heard[i].done = 0;
    }
    if (done <= heard[i].done) return;
    heard[i].done = done;
    uint64_t since = atomic_load(&requests[i].since);
    if ((uint32_t)(since >> 32) == token)
      (void)atomic_compare_exchange_strong(&requests[i].since, &since,
                                           since_of(token, rf_now_ms()));
    return;
  }
}

void rf_unfold_answer(uint32_t token, bool ok) { change(token, SENT, ok ? YES : NO); }

void rf_unfold_again(void) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    const uint64_t word = atomic_load(&requests[i].word);
    if (state_of(word) == SENT) rf_unfold_unsent(token_of(word));
    heard[i].token = 0; /* the next daemon counts from 0 */
  }
}

/* The VM is detached: nothing is folded, so every request is fulfilled. */
static void all_ok(void) {
  for (int i = 0; i < REQUESTS_MAX; ++i) {
    const uint64_t word = atomic_load(&requests[i].word);
    change(token_of(word), WANTED, YES);
    change(token_of(word), SENT, YES);
  }
}

bool rf_unfold_is_released(void) { return atomic_load(&released); }

void rf_unfold_released(bool value) { atomic_store(&released, value); }

static void in_child(void) {
  for (int i = 0; i < REQUESTS_MAX; ++i) atomic_store(&requests[i].word, 0);
  atomic_store(&released, false);
}

RF_RESET(in_child, all_ok);
