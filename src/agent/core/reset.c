/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/reset.h"

#include <stdatomic.h>
#include <stddef.h>

static _Atomic(struct rf_reset *) parts;

void rf_reset_register(struct rf_reset *part) {
  part->next = atomic_load(&parts);
  while (!atomic_compare_exchange_weak(&parts, &part->next, part)) {
  }
}

void rf_reset_child(void) {
  for (const struct rf_reset *part = atomic_load(&parts); part != NULL; part = part->next)
    if (part->child != NULL) part->child();
}

void rf_reset_detached(void) {
  for (const struct rf_reset *part = atomic_load(&parts); part != NULL; part = part->next)
    if (part->detached != NULL) part->detached();
}
