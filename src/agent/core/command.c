/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/command.h"

#include "agent/core/mapping.h"
#include "agent/core/ram.h"
#include "agent/core/unfold.h"

#include <errno.h>
#include <stdbool.h>

/* False: the run is not inside one block that is mapped as it was offered. */
static bool part_of(const struct rf_run *run, struct rf_part *part) {
  for (uint32_t i = 0; i < rf_ram_count(); ++i) {
    struct rf_ram_block *block = rf_ram_block(i);
    const uint64_t begin = block->first_page * RF_SHARED_PAGE;
    if (run->offset < begin || run->offset - begin >= block->size) continue;
    if (run->length > block->size - (run->offset - begin) || !atomic_load(&block->live))
      return false;
    *part = (struct rf_part){block, run->offset - begin, run->length};
    return true;
  }
  return false;
}

static bool may_run(const struct rf_command *command) {
  uint64_t bytes = 0;
  struct rf_part part;
  if (command->runs > RF_RUNS_MAX) return false;
  for (uint32_t i = 0; i < command->runs; ++i) {
    const struct rf_run *run = &command->run[i];
    if (run->length == 0 || run->length > RF_COMMAND_BYTES_MAX) return false;
    if ((run->offset | run->length) % RF_SHARED_PAGE != 0 || !part_of(run, &part)) return false;
    bytes += run->length;
  }
  return bytes <= RF_COMMAND_BYTES_MAX;
}

/* Are the pool's parts there? 0 or an errno. */
static int may_map(const struct rf_command *command) {
  const struct rf_map_command *map = (const struct rf_map_command *)(const void *)command;
  if (command->h.length < sizeof *map) return EINVAL;
  for (uint32_t i = 0; i < command->runs; ++i) {
    const int failed = rf_mapping_in_pool(map->pool[i], command->run[i].length);
    if (failed != 0) return -failed;
  }
  return 0;
}

static int run_one(const struct rf_command *command, uint32_t i) {
  struct rf_part part;
  if (!part_of(&command->run[i], &part)) return -EINVAL;
  switch ((enum rf_act)command->act) {
    case RF_ACT_FORGET: return rf_mapping_forget(&part);
    case RF_ACT_MAP:
      return rf_mapping_map(&part, ((const struct rf_map_command *)(const void *)command)->pool[i]);
    case RF_ACT_RESTORE: return rf_mapping_restore(&part);
  }
  return -ENOSYS;
}

void rf_command_run(const struct rf_command *command, struct rf_answer *answer) {
  answer->token = command->token;
  answer->status = RF_ANSWER_REFUSED;
  answer->done = 0;
  answer->error = 0;
  if (command->act < RF_ACT_FORGET || command->act > RF_ACT_RESTORE) {
    answer->error = ENOSYS;
  } else if (rf_unfold_is_released()) {
    /* QEMU may unmap RAM now without asking, and something else may be at its address. */
    answer->error = EBUSY;
  } else if (!may_run(command)) {
    answer->error = EINVAL;
  } else if (command->act == RF_ACT_MAP) {
    answer->error = (uint32_t)may_map(command);
  }
  if (answer->error != 0) return;
  for (; answer->done < command->runs; ++answer->done) {
    const int failed = run_one(command, answer->done);
    if (failed == 0) continue;
    answer->status = RF_ANSWER_FAILED;
    answer->error = (uint32_t)-failed;
    return;
  }
  answer->status = RF_ANSWER_DONE;
}
