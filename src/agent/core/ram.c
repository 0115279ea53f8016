/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/ram.h"

#include "agent/core/facts.h"
#include "agent/core/fds.h"
#include "agent/core/raw.h"
#include "agent/core/reset.h"
#include "agent/core/say.h"
#include "agent/wire.h"

#include <sys/mman.h>

static struct rf_ram_block blocks[RF_BLOCKS_MAX];
static _Atomic uint32_t count;
static atomic_bool frozen;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void lock(void) {
  while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) rf_sleep_us(1);
}
static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

uint32_t rf_ram_count(void) { return atomic_load_explicit(&count, memory_order_acquire); }
struct rf_ram_block *rf_ram_block(uint32_t i) { return &blocks[i]; }

uint64_t rf_ram_pages(void) {
  uint64_t pages = 0;
  for (uint32_t i = 0; i < rf_ram_count(); ++i) pages += blocks[i].size / RF_SHARED_PAGE;
  return pages;
}

static bool meets(const struct rf_ram_block *block, uint64_t from, uint64_t to) {
  return atomic_load(&block->live) && from < block->address + block->size && block->address < to;
}

static uint64_t end_of(const void *at, size_t size) {
  const uint64_t from = (uint64_t)at;
  const uint64_t bytes = (size + RF_SHARED_PAGE - 1) & ~(uint64_t)(RF_SHARED_PAGE - 1);
  return from + bytes < from ? UINT64_MAX : from + bytes;
}

bool rf_ram_overlaps(const void *at, size_t size) {
  const uint64_t to = end_of(at, size);
  for (uint32_t i = 0; i < rf_ram_count(); ++i)
    if (meets(&blocks[i], (uint64_t)at, to)) return true;
  return false;
}

bool rf_ram_small(void) {
  for (uint32_t i = 0; i < rf_ram_count(); ++i)
    if (!atomic_load(&blocks[i].small)) return false;
  return true;
}

void rf_ram_filled(uint64_t device, uint64_t inode) {
  lock();
  for (uint32_t i = 0; i < atomic_load(&count); ++i)
    if (blocks[i].device == device && blocks[i].inode == inode)
      atomic_store(&blocks[i].small, false);
  unlock();
}

bool rf_ram_is_file(int fd, uint64_t *device, uint64_t *inode) {
  struct stat s = {0};
  if (rf_ram_count() == 0 || fd < 0 || rf_sys_fstat(fd, &s) != 0) return false;
  for (uint32_t i = 0; i < rf_ram_count(); ++i) {
    if (blocks[i].device != s.st_dev || blocks[i].inode != s.st_ino) continue;
    if (device != NULL) *device = s.st_dev;
    if (inode != NULL) *inode = s.st_ino;
    return true;
  }
  return false;
}

bool rf_ram_add(void *at, size_t size, int fd, off_t offset, int flags) {
  struct stat s = {0};
  if (rf_sys_fstat(fd, &s) != 0) return false;
  /* Set before the first page: only the caller knows the address. st_blocks is read after mmap,
     which may have made pages itself. */
  const bool small = !frozen && rf_sys_madvise(at, size, MADV_NOHUGEPAGE) == 0 && s.st_blocks == 0;
  bool listed = false;
  lock();
  const uint32_t n = atomic_load(&count);
  if (!frozen && n < RF_BLOCKS_MAX) {
    /* The same pages mapped twice: a hole read through the second mapping would fill with zeros. */
    for (uint32_t i = 0; i < n; ++i)
      if (blocks[i].device == s.st_dev && blocks[i].inode == s.st_ino &&
          (uint64_t)offset < blocks[i].offset + blocks[i].size &&
          blocks[i].offset < (uint64_t)offset + size)
        rf_facts_add(RF_HAZARD_REMAP);
    const int copy = rf_sys_fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy >= 0) {
      struct rf_ram_block *block = &blocks[n];
      block->address = (uint64_t)at;
      block->size = size;
      block->offset = (uint64_t)offset;
      block->device = s.st_dev;
      block->inode = s.st_ino;
      block->fd = rf_own_keep(copy);
      atomic_store(&block->small, small);
      atomic_store(&block->no_reserve, (flags & MAP_NORESERVE) != 0);
      atomic_store(&block->no_dump, false);
      atomic_store(&block->live, true);
      atomic_store(&count, n + 1);
      listed = true;
    }
  }
  const bool full = !frozen && n == RF_BLOCKS_MAX;
  const bool failed = !frozen && !full && !listed;
  unlock();
  if (full)
    rf_say(RF_SAY_RAM, "ramfold: more than %u RAM blocks; the others are not folded",
           RF_BLOCKS_MAX);
  if (failed)
    rf_say(RF_SAY_RAM, "ramfold: no descriptor is left for a RAM block, which is not folded");
  return listed;
}

void rf_ram_lost(const void *at, size_t size) {
  const uint64_t to = end_of(at, size);
  lock();
  for (uint32_t i = 0; i < atomic_load(&count);) {
    if (!meets(&blocks[i], (uint64_t)at, to)) {
      ++i;
      continue;
    }
    atomic_store(&blocks[i].live, false);
    if (frozen) {
      rf_facts_add(RF_HAZARD_REMAP);
      ++i;
      continue;
    }
    /* The daemon does not know the table yet, so the last block takes the place of this one. A
       reader may see either of them now; nobody relies on the blocks before the freeze. */
    const uint32_t last = atomic_load(&count) - 1;
    rf_own_drop(blocks[i].fd);
    if (i != last) {
      blocks[i].address = blocks[last].address;
      blocks[i].size = blocks[last].size;
      blocks[i].offset = blocks[last].offset;
      blocks[i].device = blocks[last].device;
      blocks[i].inode = blocks[last].inode;
      blocks[i].fd = blocks[last].fd;
      atomic_store(&blocks[i].small, atomic_load(&blocks[last].small));
      atomic_store(&blocks[i].no_reserve, atomic_load(&blocks[last].no_reserve));
      atomic_store(&blocks[i].no_dump, atomic_load(&blocks[last].no_dump));
      atomic_store(&blocks[i].live, true);
    }
    atomic_store(&count, last);
  }
  unlock();
}

void rf_ram_dump(const void *at, size_t size, bool dump) {
  const uint64_t to = end_of(at, size);
  lock();
  for (uint32_t i = 0; i < atomic_load(&count); ++i)
    if ((uint64_t)at <= blocks[i].address && blocks[i].address + blocks[i].size <= to)
      atomic_store(&blocks[i].no_dump, !dump);
  unlock();
}

void rf_ram_freeze(void) {
  lock();
  if (!frozen) {
    uint64_t pages = 0;
    for (uint32_t i = 0; i < atomic_load(&count); ++i) {
      blocks[i].first_page = pages;
      pages += blocks[i].size / RF_SHARED_PAGE;
    }
    frozen = true;
  }
  unlock();
}

bool rf_ram_frozen(void) { return frozen; }

static void in_child(void) {
  atomic_flag_clear(&busy);
  atomic_store(&count, 0);
  frozen = false;
}

RF_RESET(in_child, NULL);
