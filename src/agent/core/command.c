/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/command.h"

#include "agent/core/ram.h"
#include "agent/core/raw.h"
#include "agent/core/unfold.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

/* The address of a run; null: it is not inside one block that is mapped as it was offered. */
static void *address_of(const struct rf_run *run) {
  for (uint32_t i = 0; i < rf_ram_count(); ++i) {
    const struct rf_ram_block *block = rf_ram_block(i);
    const uint64_t begin = block->first_page * RF_SHARED_PAGE;
    if (run->offset < begin || run->offset - begin >= block->size) continue;
    if (run->length > block->size - (run->offset - begin) || !atomic_load(&block->live))
      return NULL;
    return (void *)(block->address + (run->offset - begin));
  }
  return NULL;
}

static bool may_run(const struct rf_command *command) {
  uint64_t bytes = 0;
  if (command->runs > RF_RUNS_MAX) return false;
  for (uint32_t i = 0; i < command->runs; ++i) {
    const struct rf_run *run = &command->run[i];
    if (run->length == 0 || run->length > RF_COMMAND_BYTES_MAX) return false;
    if ((run->offset | run->length) % RF_SHARED_PAGE != 0 || address_of(run) == NULL) return false;
    bytes += run->length;
  }
  return bytes <= RF_COMMAND_BYTES_MAX;
}

static int run_one(enum rf_act act, const struct rf_run *run) {
  switch (act) {
    case RF_ACT_FORGET: return rf_sys_madvise(address_of(run), run->length, MADV_DONTNEED);
  }
  return -ENOSYS;
}

void rf_command_run(const struct rf_command *command, struct rf_answer *answer) {
  answer->token = command->token;
  answer->status = RF_ANSWER_REFUSED;
  answer->done = 0;
  answer->error = 0;
  if (command->act != RF_ACT_FORGET) {
    answer->error = ENOSYS;
  } else if (rf_unfold_is_released()) {
    /* QEMU may unmap RAM now without asking, and something else may be at its address. */
    answer->error = EBUSY;
  } else if (!may_run(command)) {
    answer->error = EINVAL;
  }
  if (answer->error != 0) return;
  for (; answer->done < command->runs; ++answer->done) {
    const int failed = run_one((enum rf_act)command->act, &command->run[answer->done]);
    if (failed == 0) continue;
    answer->status = RF_ANSWER_FAILED;
    answer->error = (uint32_t)-failed;
    return;
  }
  answer->status = RF_ANSWER_DONE;
}
