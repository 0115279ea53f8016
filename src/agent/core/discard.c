/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/discard.h"

#include "agent/core/host.h"
#include "agent/core/mapping.h"
#include "agent/core/ram.h"

#include <errno.h>
#include <sys/mman.h>

/* Pages discarded by one system call (4 MiB). When the call fails, only the bits that this step set
   are cleared; the others belong to an older discard. Two things bound a step: the room for its
   bits, and the time that one call may hold locks in the kernel. */
#define STEP_PAGES 1024u
#define STEP_WORDS (STEP_PAGES / 64 + 1) /* a step that starts within a word touches one more */

struct step {
  struct rf_part parts[RF_BLOCKS_MAX];
  _Atomic uint64_t *words[RF_BLOCKS_MAX];
  unsigned count[RF_BLOCKS_MAX];
  uint64_t fresh[RF_BLOCKS_MAX][STEP_WORDS]; /* bits this step set */
  unsigned runs;
};

static void set_bits(struct step *step, const struct rf_gate *gate, const struct rf_part *part) {
  const uint64_t page = rf_part_first(part);
  const uint64_t pages = part->length / RF_SHARED_PAGE;
  _Atomic uint64_t *words = rf_gate_bits(gate) + page / 64;
  const unsigned run = step->runs++;
  step->parts[run] = *part;
  const uint64_t end = page % 64 + pages; /* relative to the first word */
  step->words[run] = words;
  step->count[run] = (unsigned)((end + 63) / 64);
  for (unsigned i = 0; i < step->count[run]; ++i) {
    uint64_t mask = ~UINT64_C(0);
    if (i == 0) mask &= ~UINT64_C(0) << (page % 64);
    if (i == end / 64) mask &= (UINT64_C(1) << (end % 64)) - 1;
    step->fresh[run][i] = mask & ~atomic_fetch_or(&words[i], mask);
  }
}

static void clear_fresh(struct step *step) {
  for (unsigned run = 0; run < step->runs; ++run)
    for (unsigned i = 0; i < step->count[run]; ++i)
      atomic_fetch_and(&step->words[run][i], ~step->fresh[run][i]);
}

/* Sets the bits of the block's pages in [from, to). `begin` is where the block begins. All three
   are addresses, or all three are offsets in the file. */
static void set_block(struct step *step, const struct rf_gate *gate, struct rf_ram_block *block,
                      uint64_t begin, uint64_t from, uint64_t to) {
  struct rf_part part;
  if (rf_part_meet(block, begin, from, to, &part)) set_bits(step, gate, &part);
}

/* Like a system call: 0, or -1 and errno. */
static int fills_ended(struct rf_gate *gate, long *until) {
  const int saved = errno;
  errno = rf_gate_await_fills(gate, until);
  if (errno != 0) return -1;
  errno = saved;
  return 0;
}

/* Pages that map the pool are not in the RAM file, so the call would not reach them. Dropping the
   mapping makes them zeros, even if the call fails afterwards. That is not expected, because the
   drop has made the same punch. Result as of fills_ended(). */
static int mappings_dropped(const struct step *step) {
  for (unsigned run = 0; run < step->runs; ++run) {
    const int failed = rf_mapping_drop(&step->parts[run]);
    if (failed == 0) continue;
    errno = -failed;
    return -1;
  }
  return 0;
}

int rf_discard_file(struct rf_gate *gate, int fd, int mode, off_t offset, off_t size,
                    uint64_t device, uint64_t inode) {
  int result = 0;
  long until = 0;
  const uint64_t end = (uint64_t)offset + (uint64_t)size;
  atomic_fetch_add(&gate->shared->discards_active, 1);
  for (uint64_t from = (uint64_t)offset; from < end && result == 0;) {
    const uint64_t left = end - from;
    const uint64_t bytes = left < STEP_PAGES * RF_SHARED_PAGE ? left : STEP_PAGES * RF_SHARED_PAGE;
    struct step step = {.runs = 0};
    for (uint32_t i = 0; i < rf_ram_count(); ++i) {
      struct rf_ram_block *block = rf_ram_block(i);
      if (block->device == device && block->inode == inode)
        set_block(&step, gate, block, block->offset, from, from + bytes);
    }
    result = fills_ended(gate, &until);
    if (result == 0) result = mappings_dropped(&step);
    if (result == 0) result = rf_host.fallocate(fd, mode, (off_t)from, (off_t)bytes);
    if (result != 0) clear_fresh(&step);
    from += bytes;
  }
  atomic_fetch_sub(&gate->shared->discards_active, 1);
  return result;
}

int rf_discard_range(struct rf_gate *gate, void *at, size_t size) {
  int result = 0;
  long until = 0;
  const uint64_t end = (uint64_t)at + ((size + RF_SHARED_PAGE - 1) & ~(size_t)(RF_SHARED_PAGE - 1));
  atomic_fetch_add(&gate->shared->discards_active, 1);
  for (uint64_t from = (uint64_t)at; from < end && result == 0;) {
    const uint64_t left = end - from;
    const uint64_t bytes = left < STEP_PAGES * RF_SHARED_PAGE ? left : STEP_PAGES * RF_SHARED_PAGE;
    struct step step = {.runs = 0};
    for (uint32_t i = 0; i < rf_ram_count(); ++i) {
      struct rf_ram_block *block = rf_ram_block(i);
      if (atomic_load(&block->live))
        set_block(&step, gate, block, block->address, from, from + bytes);
    }
    result = fills_ended(gate, &until);
    if (result == 0) result = mappings_dropped(&step);
    if (result == 0) result = rf_host.madvise((void *)from, bytes, MADV_REMOVE);
    if (result != 0) clear_fresh(&step);
    from += bytes;
  }
  atomic_fetch_sub(&gate->shared->discards_active, 1);
  return result;
}
