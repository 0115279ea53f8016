/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/connection.h"

#include "agent/core/command.h"
#include "agent/core/facts.h"
#include "agent/core/fds.h"
#include "agent/core/gate.h"
#include "agent/core/mapping.h"
#include "agent/core/message.h"
#include "agent/core/ram.h"
#include "agent/core/raw.h"
#include "agent/core/reset.h"
#include "agent/core/say.h"
#include "agent/core/unfold.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Since Linux 6.1; older headers lack it. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* Outlives every connection. */
static struct {
  int uffd; /* kept for ever (L1) */
  uint8_t instance[16];
} kept = {.uffd = -1};

static void in_child(void) {
  kept.uffd = -1;
  memset(kept.instance, 0, sizeof kept.instance);
}

RF_RESET(in_child, NULL);

void rf_connection_hello(struct rf_connection *c) {
  c->small = rf_ram_small();
  struct rf_hello hello = {
      .version_min = RF_VERSION_MIN,
      .version_max = RF_VERSION_MAX,
      .blocks = rf_ram_count(),
      .capabilities = RF_CAP_DISCARD | RF_CAP_CONSUMERS | RF_CAP_FILLS | RF_CAP_COMMANDS |
                      (c->small ? RF_CAP_SMALL_FOLIOS : 0u) |
                      (rf_mapping_obstacle_here() == NULL ? RF_CAP_MAPPING : 0u),
      .hazards = rf_facts_lasting(),
      .folded = rf_gate_folded() ? 1 : 0};
  memcpy(hello.instance, kept.instance, sizeof hello.instance);
  if (rf_send(c->socket, &hello, sizeof hello, RF_HELLO, 0, 0, NULL, 0) != 0) c->over = true;
}

/* Takes the descriptor of /dev/userfaultfd. The daemon does UFFDIO_API: it knows which features it
   wants. */
static int userfaultfd_from(int device) {
  if (kept.uffd < 0 && device >= 0) {
    const int made = rf_sys_ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (made < 0) {
      rf_say(RF_SAY_UFFD, "ramfold: no userfaultfd (%s); running without folding",
             strerrordesc_np(-made));
    } else {
      kept.uffd = rf_own_keep(made);
    }
  }
  rf_own_drop(device);
  return kept.uffd;
}

static void offer(struct rf_connection *c, int device) {
  int fds[RF_FDS_MAX];
  if (rf_gate_folded()) {
    rf_own_drop(device);
    rf_say(RF_SAY_FOLDED, "ramfold: the daemon does not know this VM's folded pages; they wait");
    c->refused = c->over = true;
    return;
  }
  fds[0] = userfaultfd_from(device);
  if (fds[0] < 0 || rf_ram_count() == 0) {
    c->refused = c->over = true; /* perhaps later */
    return;
  }
  rf_ram_freeze();
  struct rf_offer message = {.blocks = rf_ram_count()};
  for (uint32_t i = 0; i < message.blocks; ++i) {
    const struct rf_ram_block *block = rf_ram_block(i);
    message.block[i] =
        (struct rf_block){block->address, block->size, block->offset, block->device, block->inode};
    fds[1 + i] = block->fd;
  }
  if (rf_send(c->socket, &message, sizeof message, RF_OFFER, 0, c->generation, fds,
              1 + message.blocks) != 0)
    c->over = true;
}

/* Huge pages cannot be dropped in parts (D7); a fork child must not hold the RAM mapped. */
static void advise_blocks(void) {
  for (uint32_t i = 0; i < rf_ram_count(); ++i) {
    const struct rf_ram_block *block = rf_ram_block(i);
    if (!atomic_load(&block->live)) continue;
    void *at = (void *)block->address;
    (void)rf_sys_madvise(at, block->size, MADV_NOHUGEPAGE); /* EINVAL: a kernel without them */
    (void)rf_sys_madvise(at, block->size, MADV_DONTFORK);
  }
}

static void attach(struct rf_connection *c, int shared, uint64_t pages, const uint8_t *instance) {
  if (shared < 0 || !rf_ram_frozen() || pages != rf_ram_pages()) {
    rf_own_drop(shared);
    rf_say(RF_SAY_SHARED,
           "ramfold: the daemon's description of the RAM does not fit; not attached");
    c->refused = c->over = true;
    return;
  }
  c->serving = c->fenced = false;
  /* The promise to fold no more holds for one attachment. It must end before the new attachment is
     published, or a call could rely on it and happen beside folding. */
  if (memcmp(kept.instance, instance, sizeof kept.instance) != 0) rf_unfold_released(false);
  switch (rf_gate_publish(shared, pages, c->generation)) {
    case RF_PUBLISHED: break;
    case RF_PUBLISH_BUSY: /* threads are inside all older mappings; they leave when it ends */
      c->over = true;
      return;
    case RF_PUBLISH_INVALID:
      rf_say(RF_SAY_SHARED, "ramfold: the daemon's shared memory is not usable; not attached");
      c->refused = c->over = true;
      return;
  }
  memcpy(kept.instance, instance, sizeof kept.instance);
  c->attached = true;
  advise_blocks();
  c->ready_due = true;
}

void rf_connection_ready(struct rf_connection *c) {
  if (!rf_gate_quiet()) return;
  if (c->small && !rf_ram_small()) { /* more RAM since the hello: it must be said anew */
    c->over = true;
    return;
  }
  rf_gate_sticky(rf_facts_lasting());
  struct rf_ready ready = {0};
  memcpy(ready.instance, kept.instance, sizeof ready.instance);
  const int sent = rf_send(c->socket, &ready, sizeof ready, RF_READY, 0, c->generation, NULL, 0);
  if (sent == 0) {
    c->ready_due = false;
    c->serving = true;
    return;
  }
  if (sent != -EAGAIN) c->over = true;
}

void rf_connection_unfolds(struct rf_connection *c) {
  struct rf_unfold unfold;
  memset(&unfold, 0, sizeof unfold);
  while (rf_unfold_next(&unfold.token, &unfold.hazard)) {
    if (rf_send(c->socket, &unfold, sizeof unfold, RF_UNFOLD, 0, c->generation, NULL, 0) == 0)
      continue;
    rf_unfold_unsent(unfold.token);
    return;
  }
}

static void welcome(struct rf_connection *c, const struct rf_welcome *m, int fd) {
  if (m->version < RF_VERSION_MIN || m->version > RF_VERSION_MAX) {
    rf_say(RF_SAY_VERSION, "ramfold: the daemon speaks version %u, this agent %u to %u",
           (unsigned)m->version, RF_VERSION_MIN, RF_VERSION_MAX);
    rf_own_drop(fd);
    c->refused = c->over = true;
    return;
  }
  c->welcomed = true;
  c->generation = m->h.generation;
  switch (m->action) {
    case RF_ACTION_OFFER: offer(c, fd); return;
    case RF_ACTION_RESUME: attach(c, fd, rf_ram_pages(), m->instance); return;
    default: /* RF_ACTION_WAIT, and what later versions may add */ rf_own_drop(fd); return;
  }
}

static void detached(struct rf_connection *c) {
  rf_reset_detached();
  c->serving = c->fenced = c->ready_due = c->attached = false;
}

static void unfolded(const struct rf_unfolded *m) {
  const uint32_t hazard = rf_unfold_hazard(m->token);
  if (m->ok == 1 && hazard != 0) {
    /* Recorded before the waiting thread goes on: the daemon may die now, and the next one must not
       fold beside the hazard that is about to begin. */
    rf_facts_add(hazard);
    rf_gate_sticky(hazard);
    rf_unfold_released(true);
  }
  rf_unfold_answer(m->token, m->ok == 1);
}

static void refused(struct rf_connection *c, struct rf_refused *m) {
  m->text[RF_TEXT_MAX - 1] = 0;
  for (char *t = m->text; *t != 0; ++t)
    if (*t < ' ' || *t == 127) *t = ' ';
  rf_say(RF_SAY_REFUSED, "ramfold: refused: %s", m->text);
  c->refused = c->over = true;
}

/* Commands run on this thread, one after the other, and it reads only one connection. So each
   command of an older daemon has ended, or will never run. */
static void fence(struct rf_connection *c) {
  struct rf_bare fenced;
  memset(&fenced, 0, sizeof fenced);
  if (rf_send(c->socket, &fenced, sizeof fenced, RF_FENCED, 0, c->generation, NULL, 0) != 0) {
    c->over = true;
    return;
  }
  c->fenced = true;
}

/* Without a pool, RF_ACT_MAP is refused. */
static void pool(int fd) {
  const char *const obstacle = rf_mapping_obstacle_here();
  if (obstacle != NULL) {
    rf_own_drop(fd);
    rf_say(RF_SAY_POOL, "ramfold: only folded pages can be shared, not pages in memory: %s",
           obstacle);
  } else if (!rf_mapping_pool(fd)) {
    rf_say(RF_SAY_POOL, "ramfold: the daemon's pool of shared pages is not usable");
  }
}

static void command(struct rf_connection *c, const struct rf_command *m) {
  /* Dropped: its sender is gone, or another daemon has this VM now (D10). */
  if (m->h.generation != c->generation || rf_gate_session() != c->generation ||
      rf_closed(c->socket))
    return;
  struct rf_answer answer = {.token = m->token, .status = RF_ANSWER_REFUSED, .error = EPERM};
  if (c->serving && c->fenced) rf_command_run(m, &answer);
  /* The daemon has room for every answer that it waits for. */
  if (rf_send(c->socket, &answer, sizeof answer, RF_ANSWER, 0, c->generation, NULL, 0) != 0)
    c->over = true;
}

void rf_connection_path(const char *path, uint64_t at[2]) {
  struct stat s = {0};
  const long failed = rf_raw6(SYS_newfstatat, AT_FDCWD, (long)path, (long)&s, 0, 0, 0);
  at[0] = failed == 0 ? s.st_dev : 0;
  at[1] = failed == 0 ? s.st_ino : 0;
}

void rf_connection_look(struct rf_connection *c, const char *path) {
  bool taken_over;
  if (c->attached) {
    /* The next daemon writes 0 when it takes the VM over. It does that only when nothing of the
       last one is under way in the VM. */
    taken_over = rf_gate_session() != c->generation;
  } else {
    uint64_t now[2];
    rf_connection_path(path, now);
    taken_over = now[1] != 0 && c->at[1] != 0 && (now[0] != c->at[0] || now[1] != c->at[1]);
  }
  if (taken_over) c->over = c->gone = true;
}

static size_t length_of(uint16_t type) {
  switch (type) {
    case RF_WELCOME: return sizeof(struct rf_welcome);
    case RF_ATTACHED: return sizeof(struct rf_attached);
    case RF_UNFOLDED: return sizeof(struct rf_unfolded);
    case RF_UNFOLDING: return sizeof(struct rf_unfolding);
    case RF_REFUSED: return sizeof(struct rf_refused);
    case RF_COMMAND: return sizeof(struct rf_command);
    case RF_FENCE:
    case RF_POOL:
    case RF_DETACHED: return sizeof(struct rf_bare);
    default: return 0;
  }
}

static void protocol_error(struct rf_connection *c) {
  rf_say(RF_SAY_PROTOCOL, "ramfold: the daemon does not speak the agent's protocol");
  c->refused = c->over = true;
}

static void handle(struct rf_connection *c, struct rf_received *received) {
  union rf_message *m = received->message;
  int fd = received->fd;
  const size_t needed = length_of(m->h.type);
  if (needed == 0) {
    if ((m->h.flags & RF_FLAG_SKIPPABLE) == 0) protocol_error(c);
  } else if (m->h.length < needed) {
    protocol_error(c);
  } else if (c->welcomed && (int32_t)(m->h.generation - c->generation) < 0) {
    /* a message of a session that is over (D10) */
  } else if (m->h.type == RF_WELCOME) {
    welcome(c, &m->welcome, fd);
    fd = -1;
  } else if (m->h.type == RF_REFUSED) {
    refused(c, &m->refused);
  } else if (!c->welcomed) {
    protocol_error(c);
  } else if (m->h.type == RF_ATTACHED) {
    attach(c, fd, m->attached.pages, m->attached.instance);
    fd = -1;
  } else if (m->h.type == RF_UNFOLDED) {
    unfolded(&m->unfolded);
  } else if (m->h.type == RF_UNFOLDING) {
    rf_unfold_moved(m->unfolding.token, m->unfolding.done);
  } else if (m->h.type == RF_DETACHED) {
    detached(c);
  } else if (m->h.type == RF_FENCE) {
    fence(c);
  } else if (m->h.type == RF_POOL) {
    pool(fd);
    fd = -1;
  } else if (m->h.type == RF_COMMAND) {
    command(c, &m->command);
  }
  rf_own_drop(fd);
}

void rf_connection_receive(struct rf_connection *c) {
  static union rf_message message; /* used by this thread alone; too large for its stack */
  struct rf_received received = {.message = &message};
  switch (rf_receive(c->socket, &received)) {
    case 1: handle(c, &received); return;
    case 0: return;
    case -3:
      rf_say(RF_SAY_VERSION, "ramfold: the daemon speaks another protocol than this agent's");
      c->refused = c->over = true;
      return;
    case -2: protocol_error(c); return;
    case -4: c->over = true; return;
    default: c->over = c->gone = true;
  }
}
