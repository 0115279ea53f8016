/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/ram.h"

#include "agent/facts.h"
#include "agent/fds.h"
#include "agent/process.h"
#include "agent/raw.h"
#include "agent/wire.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#define HUGETLBFS 0x958458F6

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

/* QEMU names its memfds; nothing else in the process is called like that. */
static bool is_backend(int fd) {
  static const char name[] = "/memfd:memory-backend-memfd";
  char path[32];
  char link[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  const long length = rf_sys_readlink(path, link, sizeof link - 1);
  if (length < 0) return false;
  link[length] = 0;
  if (strncmp(link, name, sizeof name - 1) != 0) return false;
  const char *rest = link + sizeof name - 1;
  return *rest == 0 || strcmp(rest, " (deleted)") == 0;
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

bool rf_ram_found(void *at, size_t size, int flags, int fd, off_t offset) {
  const int type = flags & MAP_TYPE;
  if (fd < 0 || (flags & MAP_ANONYMOUS) != 0) return false;
  if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE) return false;
  if (size == 0 || size % RF_SHARED_PAGE != 0 || !is_backend(fd)) return false;

  struct stat s = {0};
  struct statfs f = {0};
  if (rf_sys_fstat(fd, &s) != 0 || rf_raw3(SYS_fstatfs, fd, (long)&f, 0) != 0) return false;
  if ((uint64_t)f.f_type == HUGETLBFS) return false; /* huge pages cannot be folded */
  if (!rf_make_home()) return false;

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
      atomic_store(&block->live, true);
      atomic_store(&count, n + 1);
      listed = true;
    }
  }
  unlock();
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
    /* Nobody has been told of it: the last one takes its place. A reader that looks at this moment
       sees either; the blocks are not relied on before the freeze. */
    const uint32_t last = atomic_load(&count) - 1;
    rf_own_drop(blocks[i].fd);
    if (i != last) {
      blocks[i].address = blocks[last].address;
      blocks[i].size = blocks[last].size;
      blocks[i].offset = blocks[last].offset;
      blocks[i].device = blocks[last].device;
      blocks[i].inode = blocks[last].inode;
      blocks[i].fd = blocks[last].fd;
      atomic_store(&blocks[i].live, true);
    }
    atomic_store(&count, last);
  }
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

void rf_ram_forget(void) {
  atomic_flag_clear(&busy);
  atomic_store(&count, 0);
  frozen = false;
}
