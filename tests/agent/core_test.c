/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's core in a program that is a host of its own, without the part that is preloaded, as
 * a build of QEMU's own would use it. Also throws random commands at it: none may touch a byte that
 * is not RAM. Prints what went wrong; the exit status says whether anything did.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/core/command.h"
#include "agent/core/host.h"
#include "agent/core/mapping.h"
#include "agent/core/ram.h"
#include "agent/core/reset.h"
#include "agent/core/say.h"

#define PAGE 4096u
#define BLOCK_PAGES 64u
#define COMMANDS 200000u

static char said[512];
static unsigned failures;

static const char *setting(const char *name) {
  (void)name;
  return NULL;
}
static void say(const char *line, size_t length) {
  memcpy(said, line, length < sizeof said ? length : sizeof said);
}
const struct rf_host rf_host = {
    .setting = setting, .say = say, .fallocate = fallocate, .madvise = madvise};

static void check(int good, const char *what) {
  if (good) return;
  printf("FAILED: %s\n", what);
  ++failures;
}

static int present(const char *at) {
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  uint64_t entry = 0;
  if (map < 0 || pread(map, &entry, sizeof entry, (off_t)((uintptr_t)at / PAGE * 8)) != 8)
    entry = 0;
  close(map);
  return (int)(entry >> 63);
}

/* A block of RAM between two private pages of QEMU's, which a wrong command would make zeros. */
static char *make_block(unsigned number) {
  const int file = memfd_create("memory-backend-memfd", MFD_CLOEXEC);
  char *at = mmap(NULL, (BLOCK_PAGES + 2) * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (file < 0 || at == MAP_FAILED || ftruncate(file, BLOCK_PAGES * PAGE) != 0) exit(2);
  memset(at, 'q', (BLOCK_PAGES + 2) * PAGE);
  if (mmap(at + PAGE, BLOCK_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
           0) == MAP_FAILED)
    exit(2);
  memset(at + PAGE, 'a' + (int)number, BLOCK_PAGES * PAGE);
  check(rf_ram_add(at + PAGE, BLOCK_PAGES * PAGE, file, 0, MAP_SHARED), "RAM is listed");
  return at;
}

static int all(const char *at, char byte) {
  for (unsigned i = 0; i < PAGE; ++i)
    if (at[i] != byte) return 0;
  return 1;
}

static uint64_t random_from(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* Four pages of the pool. */
static int make_pool(void) {
  char path[64];
  const int file = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0 || ftruncate(file, 4 * PAGE) != 0 || fchmod(file, 0444) != 0 ||
      fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
    exit(2);
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  return open(path, O_RDONLY | O_CLOEXEC);
}

/* Near what is valid, and far from it. */
static uint64_t odd_number(uint64_t *state, uint64_t most) {
  switch (random_from(state) % 8) {
    case 0: return random_from(state);
    case 1: return UINT64_MAX - random_from(state) % (4 * PAGE);
    case 2: return most - random_from(state) % 3 * PAGE;
    case 3: return random_from(state) % (2 * most);
    default: return random_from(state) % (most / PAGE) * PAGE;
  }
}

/* Acts up to `last_act`, and unknown ones. */
static unsigned throw_commands(uint64_t seed, uint32_t last_act) {
  unsigned done = 0;
  struct rf_map_command map;
  struct rf_command *const command = &map.c;
  struct rf_answer answer;
  memset(&map, 0, sizeof map);
  for (unsigned n = 0; n < COMMANDS; ++n) {
    command->h.length = random_from(&seed) % 16 == 0 ? sizeof map - 1 : sizeof map;
    command->token = n;
    command->act = random_from(&seed) % 16 == 0 ? (uint32_t)random_from(&seed)
                                                : 1 + (uint32_t)(random_from(&seed) % last_act);
    command->runs =
        (uint32_t)(random_from(&seed) % 16 == 0 ? random_from(&seed) : random_from(&seed) % 4);
    for (unsigned i = 0; i < 4; ++i) {
      command->run[i] =
          (struct rf_run){odd_number(&seed, 2 * BLOCK_PAGES * PAGE), odd_number(&seed, 8 * PAGE)};
      map.pool[i] = odd_number(&seed, 4 * PAGE);
    }
    rf_command_run(command, &answer);
    check(answer.token == n, "the token is the command's");
    check((answer.status == RF_ANSWER_DONE) == (answer.error == 0), "an error is one");
    if (last_act == RF_ACT_FORGET || answer.status != RF_ANSWER_FAILED)
      check(answer.done == (answer.status == RF_ANSWER_DONE ? command->runs : 0), "all or nothing");
    done += answer.status == RF_ANSWER_DONE;
  }
  return done;
}

int main(void) {
  char *const first = make_block(0);
  char *const second = make_block(1);
  rf_ram_freeze();
  check(rf_ram_pages() == 2 * BLOCK_PAGES, "the pages of both");

  struct rf_command command;
  struct rf_answer answer;
  memset(&command, 0, sizeof command);
  command.act = RF_ACT_FORGET;
  command.runs = 1;
  command.run[0] = (struct rf_run){(BLOCK_PAGES + 3) * PAGE, PAGE};
  rf_command_run(&command, &answer);
  check(answer.status == RF_ANSWER_DONE && answer.done == 1, "it is carried out");
  check(!present(second + 4 * PAGE) && present(second + 3 * PAGE), "on the page it names");
  check(all(second + 4 * PAGE, 'b') && present(second + 4 * PAGE), "which loses nothing");

  const unsigned done = throw_commands(20260101, RF_ACT_FORGET);
  check(done > COMMANDS / 100, "some of the random ones are good");
  for (unsigned i = 0; i < 2; ++i) {
    const char *at = i == 0 ? first : second;
    check(all(at, 'q') && all(at + (BLOCK_PAGES + 1) * PAGE, 'q'), "nothing beside RAM is lost");
    for (unsigned page = 1; page <= BLOCK_PAGES; ++page)
      check(all(at + page * PAGE, (char)('a' + i)), "nothing of RAM is lost");
  }

  check(rf_mapping_pool(make_pool()), "it is a pool");
  const unsigned mapped = throw_commands(20260102, RF_ACT_RESTORE);
  check(mapped > COMMANDS / 100, "some that map are good, too");
  for (unsigned i = 0; i < 2; ++i) {
    const char *at = i == 0 ? first : second;
    check(all(at, 'q') && all(at + (BLOCK_PAGES + 1) * PAGE, 'q'), "nothing is mapped beside RAM");
    for (unsigned page = 1; page <= BLOCK_PAGES; ++page)
      check(all(at + page * PAGE, (char)('a' + i)) || all(at + page * PAGE, 0),
            "RAM has its own pages, and the pool's");
  }

  rf_ram_lost(first + PAGE, BLOCK_PAGES * PAGE);
  command.run[0] = (struct rf_run){0, PAGE};
  rf_command_run(&command, &answer);
  check(answer.status == RF_ANSWER_REFUSED, "a block that is no more RAM is left alone");

  rf_say(RF_SAY_RAM, "a line");
  check(strcmp(said, "a line\n") == 0, "the host says the line");
  rf_reset_child();
  check(rf_ram_count() == 0, "a child has no RAM");
  printf("%u of %u random commands were carried out, %u failures\n", done, COMMANDS, failures);
  return failures == 0 ? 0 : 1;
}
