/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/gate.h"

#include "agent/core/raw.h"
#include "agent/core/reset.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HOLD_PAUSE_US_MIN 50u
#define HOLD_PAUSE_US_MAX 1000u
/* Looks before the first sleep: a fill takes some microseconds, a sleep at least fifty. */
#define FILL_LOOKS 200

/* When a daemon comes back with new memory, threads may still be inside the former mapping. */
#define MAPS_MAX 4

struct rf_gate_map {
  struct rf_shared *shared;
  size_t bytes;
  uint64_t device, inode;
  _Atomic uint32_t users;
  /* Odd values of filling words for which a discard has waited in vain. No discard waits again for
     the same value, so a stopped daemon costs the whole wait only once. Even: none. */
  _Atomic uint32_t given_up[RF_FILLINGS];
};

static struct rf_gate_map maps[MAPS_MAX];
static _Atomic(struct rf_gate_map *) current; /* null: not standing */
static _Atomic uint32_t passing;              /* calls that entered while not standing */
static _Atomic uint32_t dead;                 /* generation of a daemon that died; 0: none */
static _Atomic uint32_t hold_ms = RF_HOLD_MS_MAX;

void rf_gate_limit_hold_ms(unsigned ms) {
  if (ms < RF_HOLD_MS_MAX) atomic_store(&hold_ms, ms);
}

void rf_gate_enter(struct rf_gate *gate) {
  *gate = (struct rf_gate){NULL, NULL};
  for (;;) {
    struct rf_gate_map *map = atomic_load(&current);
    if (map == NULL) {
      atomic_fetch_add(&passing, 1);
      if (atomic_load(&current) == NULL) return;
      atomic_fetch_sub(&passing, 1); /* it began to stand just now */
      continue;
    }
    atomic_fetch_add(&map->users, 1);
    if (atomic_load(&current) == map) {
      gate->map = map;
      gate->shared = map->shared;
      return;
    }
    atomic_fetch_sub(&map->users, 1);
  }
}

void rf_gate_leave(struct rf_gate *gate) {
  atomic_fetch_sub(gate->map == NULL ? &passing : &gate->map->users, 1);
}

/* Has a dead daemon written the filling words? A daemon that begins changes `session` before it
   writes its first word. So REQUIRES: the caller has read the word before. */
static bool left_behind(const struct rf_shared *shared) {
  const uint32_t last = atomic_load(&dead);
  return last != 0 && atomic_load(&shared->session) == last;
}

static int await_fill(struct rf_gate *gate, unsigned i, long *until) {
  _Atomic uint32_t *word = &gate->shared->filling[i].word;
  const uint32_t seen = atomic_load(word);
  if (seen % 2 == 0) return 0;
  for (unsigned looks = 0; looks < FILL_LOOKS; ++looks)
    if (atomic_load(word) != seen) return 0;
  unsigned pause = HOLD_PAUSE_US_MIN;
  while (atomic_load(word) == seen && !left_behind(gate->shared)) {
    const long now = rf_now_ms();
    if (*until == 0) *until = now + (long)atomic_load(&hold_ms);
    if (now >= *until || atomic_load(&gate->map->given_up[i]) == seen) {
      atomic_store(&gate->map->given_up[i], seen);
      return EBUSY;
    }
    rf_sleep_us(pause);
    if (pause < HOLD_PAUSE_US_MAX) pause *= 2;
  }
  return 0;
}

int rf_gate_await_fills(struct rf_gate *gate, long *until) {
  for (unsigned i = 0; i < RF_FILLINGS; ++i)
    if (await_fill(gate, i, until) != 0) return EBUSY;
  return 0;
}

void rf_gate_hung_up(uint32_t generation) {
  const struct rf_gate_map *map = atomic_load(&current);
  /* A living daemon that closes a connection may still fill; it has changed `session` before. A
     dead daemon's system calls ended before its socket closed. */
  if (map != NULL && atomic_load(&map->shared->session) == generation)
    atomic_store(&dead, generation);
}

static struct rf_gate_map *slot_of(const struct stat *s) {
  for (unsigned i = 0; i < MAPS_MAX; ++i)
    if (maps[i].shared != NULL && maps[i].device == s->st_dev && maps[i].inode == s->st_ino)
      return &maps[i];
  for (unsigned i = 0; i < MAPS_MAX; ++i) {
    struct rf_gate_map *map = &maps[i];
    if (map == atomic_load(&current) || atomic_load(&map->users) != 0) continue;
    if (map->shared != NULL) rf_sys_munmap(map->shared, map->bytes);
    map->shared = NULL;
    return map;
  }
  return NULL;
}

enum rf_published rf_gate_publish(int fd, uint64_t pages, uint32_t generation) {
  struct stat s = {0};
  const uint64_t bytes = RF_SHARED_PAGE + (pages + 63) / 64 * 8;
  const int seals = rf_sys_fcntl(fd, F_GET_SEALS, 0);
  /* Without the seal against shrinking, a daemon gone wrong could end QEMU by SIGBUS. */
  if (rf_sys_fstat(fd, &s) != 0 || (uint64_t)s.st_size < bytes || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    rf_sys_close(fd);
    return RF_PUBLISH_INVALID;
  }
  struct rf_gate_map *map = slot_of(&s);
  if (map == NULL) {
    rf_sys_close(fd);
    return RF_PUBLISH_BUSY;
  }
  if (map->shared == NULL) {
    const long at = rf_sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at < 0 && at >= -4095) {
      rf_sys_close(fd);
      return RF_PUBLISH_INVALID;
    }
    (void)rf_sys_madvise((void *)at, bytes, MADV_DONTFORK);
    map->shared = (struct rf_shared *)at;
    map->bytes = bytes;
    map->device = s.st_dev;
    map->inode = s.st_ino;
    for (unsigned i = 0; i < RF_FILLINGS; ++i) atomic_store(&map->given_up[i], 0);
  }
  rf_sys_close(fd);
  const struct rf_shared *shared = map->shared;
  const uint32_t session = atomic_load(&map->shared->session);
  if (shared->magic != RF_MAGIC || shared->version < RF_VERSION_MIN ||
      shared->version > RF_VERSION_MAX || shared->pages != pages || map->bytes < bytes ||
      (session != 0 && (int32_t)(generation - session) < 0))
    return RF_PUBLISH_INVALID;
  uint32_t same = generation; /* two daemons have one generation: the clock was set back */
  (void)atomic_compare_exchange_strong(&dead, &same, 0);
  atomic_store(&current, map);
  return RF_PUBLISHED;
}

bool rf_gate_quiet(void) {
  if (atomic_load(&passing) != 0) return false;
  for (unsigned i = 0; i < MAPS_MAX; ++i)
    if (&maps[i] != atomic_load(&current) && atomic_load(&maps[i].users) != 0) return false;
  return true;
}

uint32_t rf_gate_session(void) {
  const struct rf_gate_map *map = atomic_load(&current);
  return map == NULL ? 0 : atomic_load(&map->shared->session);
}

bool rf_gate_standing(void) { return atomic_load(&current) != NULL; }

bool rf_gate_folded(void) {
  const struct rf_gate_map *map = atomic_load(&current);
  return map != NULL && atomic_load(&map->shared->folded) != 0;
}

void rf_gate_sticky(uint32_t hazards) {
  struct rf_gate_map *map = atomic_load(&current);
  if (map != NULL) atomic_fetch_or(&map->shared->sticky, hazards);
}

static void in_child(void) {
  /* The mappings themselves did not come along: MADV_DONTFORK. */
  memset(maps, 0, sizeof maps);
  atomic_store(&current, NULL);
  atomic_store(&passing, 0);
  atomic_store(&dead, 0);
}

static void detached(void) { atomic_store(&current, NULL); }

RF_RESET(in_child, detached);
