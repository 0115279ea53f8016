/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of RAM that map the pool: read-only pages that VMs of one group share. A write is copied by
 * the kernel, so such a page's bytes are nowhere but behind its address (T2). This part maps and
 * puts back, and knows which pages map the pool at this moment.
 *
 * The host may discard such a page at any time. A discard sets its bits, and then drops the
 * mapping; map() looks at the bits. Both hold the lock of this part, so either map() sees the bit,
 * or the drop sees the mapping. The punch beneath a new mapping is under the lock too: a punch
 * after it could meet a page that was discarded and written since.
 *
 * Threads: map, restore, forget and the pool are the session's; drop and dontneed any. The lock is
 * held for one piece (RF_PIECE_PAGES; to put it back takes a copy of each page), or for one
 * madvise of at most 4 MiB. Nobody who holds it touches RAM in a way that waits for the daemon: RAM
 * is only read, and guards stop only writes.
 */
#ifndef RAMFOLD_AGENT_CORE_MAPPING_H
#define RAMFOLD_AGENT_CORE_MAPPING_H

#include "agent/core/ram.h"
#include "agent/wire.h"

/* One call maps or unmaps no more: this bounds for how long it holds QEMU's mmap_lock. The aim is
   200 us. */
#define RF_PIECE_PAGES 256u
/* The same for the call that makes pages of the RAM file, which takes longer for each. */
#define RF_FILL_PAGES 64u

/* Part of one block, in bytes from the block's begin, whole pages. */
struct rf_part {
  struct rf_ram_block *block;
  uint64_t offset;
  uint64_t length;
};

/* The number of its first page, among the pages of all blocks. */
static inline uint64_t rf_part_first(const struct rf_part *part) {
  return part->block->first_page + part->offset / RF_SHARED_PAGE;
}
/* The part of the block that [from, to) meets; `begin` is where the block begins. All three are
   addresses, or all three are offsets in the file. False: none. */
bool rf_part_meet(struct rf_ram_block *block, uint64_t begin, uint64_t from, uint64_t to,
                  struct rf_part *part);

/* Why the pool must not be mapped into a process with these user ids, on a kernel of this release;
   null: it may be. Root could open the pool for writing. Before Linux 6.12 a failed mmap may leave
   a hole in the address space. */
const char *rf_mapping_obstacle(const unsigned ids[3], const char *release);
/* The same for this process. */
const char *rf_mapping_obstacle_here(void);

/* Takes the pool's descriptor over. False: it is not one that may be mapped, and there is no pool
   now. -1: there is none any more. */
bool rf_mapping_pool(int fd);

/* 0 or -errno. After an error some of the part may be mapped, or put back: the kernel tells. In
   either case each page has its bytes. */
int rf_mapping_map(const struct rf_part *part, uint64_t pool_offset);
int rf_mapping_restore(const struct rf_part *part);
/* MADV_DONTNEED, unless a page of the part maps the pool: -EBUSY. */
int rf_mapping_forget(const struct rf_part *part);
/* Is all of [offset, offset + length) in the pool? 0 or -errno. */
int rf_mapping_in_pool(uint64_t offset, uint64_t length);

/* For a discard, between its bits and its call: pages of the part that map the pool are zero
   afterwards, and map the RAM file. 0 or -errno; then the call must not be made. */
int rf_mapping_drop(const struct rf_part *part);
/* madvise(MADV_DONTNEED) of the host's. It frees nothing of a shared mapping, but it would free the
   copies of written pages. So it works in steps of 4 MiB, and leaves out a step in which a page
   maps the pool. Result and errno as of madvise. */
int rf_mapping_dontneed(void *at, size_t size);

#endif
