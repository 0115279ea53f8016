/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The RAM blocks: shared mappings of memfds, as the host tells them. Blocks may come
 * and go until the table is frozen, when it is offered to the daemon; from then on it is constant,
 * because a page's number is its place in it. RAM mapped later is left alone.
 *
 * Threads: looking needs no lock; changes are serialized by a spin lock that is never held over a
 * wait.
 */
#ifndef RAMFOLD_AGENT_CORE_RAM_H
#define RAMFOLD_AGENT_CORE_RAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct rf_ram_block {
  uint64_t address, size, offset; /* bytes, whole pages */
  uint64_t device, inode;         /* of the RAM file */
  uint64_t first_page;            /* number of its first page among all blocks' */
  int fd;                         /* the agent's own duplicate */
  atomic_bool live;               /* still mapped as it was found */
  atomic_bool small;      /* its file was empty when large folios were excluded from the mapping */
  atomic_bool no_reserve; /* mapped with MAP_NORESERVE */
  atomic_bool no_dump;    /* the host wants it in no core dump */
};

/* A shared mapping of a memfd in pages of the usual size, which the host says is RAM. True when it
   was listed. */
bool rf_ram_add(void *at, size_t size, int fd, off_t offset, int flags); /* mmap's */
/* The range was unmapped or mapped over. Its blocks are dropped; after the freeze, marked. */
void rf_ram_lost(const void *at, size_t size);
/* The host has said whether the range is in core dumps. Noted of blocks that it holds whole. */
void rf_ram_dump(const void *at, size_t size, bool dump);
void rf_ram_freeze(void);
bool rf_ram_frozen(void);

uint32_t rf_ram_count(void); /* 0: every interposer is transparent */
struct rf_ram_block *rf_ram_block(uint32_t i);
uint64_t rf_ram_pages(void);

/* No block can hold a large folio (D7). */
bool rf_ram_small(void);
/* The file gets pages by its descriptor: advice on a mapping does not keep those small. */
void rf_ram_filled(uint64_t device, uint64_t inode);

bool rf_ram_overlaps(const void *at, size_t size);
/* Is it the file of a block in the table? */
bool rf_ram_is_file(int fd, uint64_t *device, uint64_t *inode);

#endif
