/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/mapping.h"

#include "agent/core/fds.h"
#include "agent/core/gate.h"
#include "agent/core/host.h"
#include "agent/core/raw.h"
#include "agent/core/reset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#define TMPFS 0x01021994
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static struct {
  atomic_flag busy;
  /* The rest with the lock. */
  int pool;         /* -1: none */
  uint64_t *mapped; /* bit i: page i of all blocks maps the pool. Null: none ever did */
} mapping = {.busy = ATOMIC_FLAG_INIT, .pool = -1};

static void lock(void) {
  while (atomic_flag_test_and_set_explicit(&mapping.busy, memory_order_acquire)) rf_sleep_us(1);
}
static void unlock(void) { atomic_flag_clear_explicit(&mapping.busy, memory_order_release); }

static void in_child(void) {
  atomic_flag_clear(&mapping.busy);
  mapping.pool = -1;
  mapping.mapped = NULL; /* neither RAM nor what maps the pool is in a child */
}
static void detached(void) { (void)rf_mapping_pool(-1); }

RF_RESET(in_child, detached);

const char *rf_mapping_obstacle(const unsigned ids[3], const char *release) {
  char *rest;
  const unsigned long major = strtoul(release, &rest, 10);
  const unsigned long minor = *rest == '.' ? strtoul(rest + 1, NULL, 10) : 0;
  if (major < 6 || (major == 6 && minor < 12)) return "this needs Linux 6.12";
  if (ids[0] == 0 || ids[1] == 0 || ids[2] == 0) return "QEMU runs as root";
  return NULL;
}

const char *rf_mapping_obstacle_here(void) {
  unsigned ids[3] = {0};
  struct utsname name;
  memset(&name, 0, sizeof name);
  if (rf_raw3(SYS_getresuid, (long)&ids[0], (long)&ids[1], (long)&ids[2]) != 0 ||
      rf_raw3(SYS_uname, (long)&name, 0, 0) != 0)
    return "the kernel does not tell its release";
  return rf_mapping_obstacle(ids, name.release);
}

/* Read-only, of tmpfs, nobody's to write, and never shorter than it is: a page behind its end would
   be a SIGBUS in the guest. */
static bool is_pool(int fd) {
  struct stat s = {0};
  struct statfs f = {0};
  const int flags = rf_sys_fcntl(fd, F_GETFL, 0);
  if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || (flags & O_PATH) != 0) return false;
  if (rf_sys_fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || (s.st_mode & 0222) != 0) return false;
  if (rf_raw3(SYS_fstatfs, fd, (long)&f, 0) != 0 || (uint64_t)f.f_type != TMPFS) return false;
  const int seals = rf_sys_fcntl(fd, F_GET_SEALS, 0);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && !rf_ram_is_file(fd, NULL, NULL);
}

bool rf_mapping_pool(int fd) {
  const bool good = fd >= 0 && is_pool(fd);
  if (!good) {
    rf_own_drop(fd);
    fd = -1;
  }
  lock();
  const int before = mapping.pool;
  mapping.pool = fd;
  unlock();
  rf_own_drop(before);
  return good;
}

int rf_mapping_in_pool(uint64_t offset, uint64_t length) {
  struct stat s = {0};
  if (mapping.pool < 0) return -EBADF; /* the session's thread alone changes it */
  const int failed = rf_sys_fstat(mapping.pool, &s);
  if (failed != 0) return failed;
  const uint64_t size = (uint64_t)s.st_size;
  if (offset % RF_SHARED_PAGE != 0 || offset > size || length > size - offset) return -EINVAL;
  return 0;
}

/* ---- with the lock ---- */

static bool is_mapped(uint64_t page) { return (mapping.mapped[page / 64] >> (page % 64) & 1) != 0; }

static void note(const struct rf_part *part, bool maps) {
  const uint64_t first = rf_part_first(part);
  for (uint64_t p = first; p < first + part->length / RF_SHARED_PAGE; ++p) {
    const uint64_t bit = UINT64_C(1) << (p % 64);
    if (maps) {
      mapping.mapped[p / 64] |= bit;
    } else {
      mapping.mapped[p / 64] &= ~bit;
    }
  }
}

/* The first run, of at most RF_PIECE_PAGES, that maps the pool. False: there is none. */
static bool first_mapped(const struct rf_part *in, struct rf_part *run) {
  const uint64_t first = rf_part_first(in);
  const uint64_t pages = in->length / RF_SHARED_PAGE;
  uint64_t at = 0;
  if (mapping.mapped == NULL) return false;
  while (at < pages && !is_mapped(first + at)) ++at;
  if (at == pages) return false;
  uint64_t count = 1;
  while (at + count < pages && count < RF_PIECE_PAGES && is_mapped(first + at + count)) ++count;
  *run = (struct rf_part){in->block, in->offset + at * RF_SHARED_PAGE, count * RF_SHARED_PAGE};
  return true;
}

static bool any_discarded(const struct rf_part *part) {
  const uint64_t first = rf_part_first(part);
  struct rf_gate gate;
  bool any = false;
  rf_gate_enter(&gate);
  if (rf_gate_stands(&gate)) {
    const _Atomic uint64_t *bits = rf_gate_bits(&gate);
    for (uint64_t p = first; p < first + part->length / RF_SHARED_PAGE && !any; ++p)
      any = (atomic_load(&bits[p / 64]) >> (p % 64) & 1) != 0;
  }
  rf_gate_leave(&gate);
  return any;
}

static char *address_of(const struct rf_part *part) {
  return (char *)(part->block->address + part->offset);
}

/* What RAM has, and a new mapping in its place does not: mappings that differ never merge. */
static void advise(const struct rf_part *part) {
  char *const at = address_of(part);
  (void)rf_sys_madvise(at, part->length, MADV_NOHUGEPAGE);
  (void)rf_sys_madvise(at, part->length, MADV_DONTFORK);
  if (atomic_load(&part->block->no_dump)) (void)rf_sys_madvise(at, part->length, MADV_DONTDUMP);
}

static int punch(const struct rf_part *part) {
  return rf_sys_fallocate(part->block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)(part->block->offset + part->offset), (off_t)part->length);
}

static int map_ram(const struct rf_part *part) {
  const int flags =
      MAP_SHARED | MAP_FIXED | (atomic_load(&part->block->no_reserve) ? MAP_NORESERVE : 0);
  const long at = rf_sys_mmap(address_of(part), part->length, PROT_READ | PROT_WRITE, flags,
                              part->block->fd, (off_t)(part->block->offset + part->offset));
  if (at < 0) return (int)at;
  note(part, false);
  advise(part);
  return 0;
}

static int map_piece(const struct rf_part *part, uint64_t pool_offset) {
  struct rf_part run;
  if (mapping.mapped == NULL) {
    const long bits = rf_sys_mmap(NULL, (rf_ram_pages() + 63) / 64 * 8, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bits < 0) return (int)bits;
    mapping.mapped = (uint64_t *)bits;
  }
  if (first_mapped(part, &run)) return -EBUSY; /* written pages may be there */
  if (any_discarded(part)) return -EAGAIN;
  const long at =
      rf_sys_mmap(address_of(part), part->length, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, mapping.pool, (off_t)pool_offset);
  if (at < 0) return (int)at;
  note(part, true);
  /* Under PR_SET_MEMORY_MERGE a new private mapping is KSM's to merge. KSM replaces a copy in the
     page table, and the guard goes with it. */
  (void)rf_sys_madvise(address_of(part), part->length, MADV_UNMERGEABLE);
  advise(part);
  /* If it fails, the RAM file keeps an old page that nobody reads (T2). */
  (void)punch(part);
  return 0;
}

/* Advice, and the copy, for the mapping `to` of the part's place in the RAM file. The kernel does
   the copying, so that a page that cannot be read, or made, is an error and no signal. */
static int fill(const struct rf_part *part, char *to) {
  struct iovec from = {address_of(part), part->length};
  struct iovec into = {to, part->length};
  int failed = rf_sys_madvise(to, part->length, MADV_DONTFORK);
  if (failed != 0) return failed;
  failed = rf_sys_madvise(to, part->length, MADV_NOHUGEPAGE);
  if (failed != 0 && failed != -EINVAL) return failed; /* EINVAL: a kernel without large folios */
  failed = rf_sys_madvise(to, part->length, MADV_POPULATE_WRITE);
  if (failed != 0) return failed;
  const long copied = rf_raw6(SYS_process_vm_writev, rf_raw3(SYS_gettid, 0, 0, 0), (long)&from, 1,
                              (long)&into, 1, 0);
  if (copied < 0) return (int)copied;
  return (uint64_t)copied == part->length ? 0 : -EFAULT;
}

/* Copies pages to their places in the RAM file, which are holes. A write would let the settings of
   the host choose the size of the folio, and a large one makes zeros of the holes beside it: pages
   that are folded would be lost (D7). A page fault obeys MADV_NOHUGEPAGE. The mapping can only be
   written. The daemon knows it by that (src/guest/ram_mapping.cpp). */
static int save(const struct rf_part *part) {
  for (uint64_t done = 0; done < part->length;) {
    struct rf_part step = {part->block, part->offset + done, part->length - done};
    if (step.length > RF_FILL_PAGES * RF_SHARED_PAGE) step.length = RF_FILL_PAGES * RF_SHARED_PAGE;
    const long at = rf_sys_mmap(NULL, step.length, PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                                step.block->fd, (off_t)(step.block->offset + step.offset));
    if (at < 0) return (int)at;
    const int failed = fill(&step, (char *)at);
    (void)rf_sys_munmap((void *)at, step.length);
    if (failed != 0) return failed;
    done += step.length;
  }
  return 0;
}

static int restore_piece(const struct rf_part *run) {
  int failed = save(run);
  if (failed == 0) failed = map_ram(run);
  if (failed != 0) (void)punch(run); /* the mapping is the truth; those copies are of no use */
  return failed;
}

static int drop_piece(const struct rf_part *run) {
  /* There is a page beneath when the punch of map_piece() failed. */
  const int failed = punch(run);
  return failed != 0 ? failed : map_ram(run);
}

/* ---- without it ---- */

static int each_mapped(const struct rf_part *part, int (*piece)(const struct rf_part *)) {
  for (;;) {
    struct rf_part run;
    int failed = 0;
    lock();
    const bool found = first_mapped(part, &run);
    if (found) failed = piece(&run);
    unlock();
    if (!found || failed != 0) return failed;
  }
}

int rf_mapping_map(const struct rf_part *part, uint64_t pool_offset) {
  for (uint64_t at = 0; at < part->length;) {
    struct rf_part piece = {part->block, part->offset + at, part->length - at};
    if (piece.length > RF_PIECE_PAGES * RF_SHARED_PAGE)
      piece.length = RF_PIECE_PAGES * RF_SHARED_PAGE;
    lock();
    const int failed = map_piece(&piece, pool_offset + at);
    unlock();
    if (failed != 0) return failed;
    at += piece.length;
  }
  return 0;
}

int rf_mapping_restore(const struct rf_part *part) { return each_mapped(part, restore_piece); }

int rf_mapping_drop(const struct rf_part *part) { return each_mapped(part, drop_piece); }

int rf_mapping_forget(const struct rf_part *part) {
  struct rf_part run;
  lock();
  const int failed = first_mapped(part, &run)
                         ? -EBUSY
                         : rf_sys_madvise(address_of(part), part->length, MADV_DONTNEED);
  unlock();
  return failed;
}

bool rf_part_meet(struct rf_ram_block *block, uint64_t begin, uint64_t from, uint64_t to,
                  struct rf_part *part) {
  const uint64_t end = begin + block->size;
  if (from < begin) from = begin;
  if (to > end) to = end;
  if (from >= to) return false;
  *part = (struct rf_part){block, from - begin, to - from};
  return true;
}

int rf_mapping_dontneed(void *at, size_t size) {
  int result = 0;
  for (size_t done = 0; done < size && result == 0;) {
    char *const from = (char *)at + done;
    const size_t left = size - done;
    const size_t bytes = left < RF_COMMAND_BYTES_MAX ? left : RF_COMMAND_BYTES_MAX;
    const uint64_t to =
        (uint64_t)from + ((bytes + RF_SHARED_PAGE - 1) & ~(uint64_t)(RF_SHARED_PAGE - 1));
    bool any = false;
    lock();
    for (uint32_t i = 0; i < rf_ram_count() && !any; ++i) {
      struct rf_part part;
      struct rf_part run;
      struct rf_ram_block *const block = rf_ram_block(i);
      any = rf_part_meet(block, block->address, (uint64_t)from, to, &part) &&
            first_mapped(&part, &run);
    }
    if (!any) result = rf_host.madvise(from, bytes, MADV_DONTNEED);
    unlock();
    done += bytes;
  }
  return result;
}
