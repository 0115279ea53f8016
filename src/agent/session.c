/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/session.h"

#include "agent/facts.h"
#include "agent/fds.h"
#include "agent/gate.h"
#include "agent/message.h"
#include "agent/ram.h"
#include "agent/raw.h"
#include "agent/say.h"
#include "agent/unfold.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Since Linux 6.1; older headers lack it. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define SETTLE_MS_DEFAULT 500
#define BACKOFF_MS_MIN 100
#define BACKOFF_MS_MAX 2000
#define STACK_BYTES (256 * 1024)
/* How often a thing that another thread must bring about is looked at. */
#define POLL_MS_READY 1
#define POLL_MS_UNSENT 10

enum ended { ENDED, ENDED_REFUSED }; /* how a connection ended */

static struct {
  atomic_flag started;
  _Atomic int wake; /* eventfd + 1; 0: none */
  _Atomic uint32_t hold_hints, changed_hints;
  _Atomic int unsettled;
  int uffd; /* kept for ever (L1) */
  int settle_ms;
  char path[108];
  uint8_t instance[16];
} session = {.started = ATOMIC_FLAG_INIT, .uffd = -1};

struct connection {
  int socket;
  uint32_t generation;
  bool welcomed, serving;
  bool ready_due; /* attached; RF_READY follows when the gate is quiet */
  bool refused;
  bool over; /* no more of this connection */
  bool gone; /* the daemon closed it, or died */
};

/* ---- from QEMU's threads ---- */

void rf_session_wake(void) {
  const uint64_t one = 1;
  const int fd = atomic_load(&session.wake) - 1;
  if (fd >= 0) (void)rf_sys_write(fd, &one, sizeof one);
}

void rf_session_hint(uint16_t type, uint32_t hazards) {
  atomic_fetch_or(type == RF_HOLD ? &session.hold_hints : &session.changed_hints, hazards);
  rf_session_wake();
}

void rf_session_unsettled(int change) {
  atomic_fetch_add(&session.unsettled, change);
  rf_session_wake();
}

void rf_session_forget(void) {
  atomic_store(&session.unsettled, 0);
  atomic_store(&session.wake, 0);
  atomic_store(&session.hold_hints, 0);
  atomic_store(&session.changed_hints, 0);
  session.uffd = -1;
  memset(session.instance, 0, sizeof session.instance);
  atomic_flag_clear(&session.started);
}

static unsigned number_from(const char *name, unsigned fallback) {
  const char *text = getenv(name);
  if (text == NULL || *text < '0' || *text > '9') return fallback;
  const unsigned long value = strtoul(text, NULL, 10);
  return value > 3600000 ? 3600000 : (unsigned)value;
}

static void *run(void *unused);

void rf_session_start(void) {
  if (atomic_flag_test_and_set(&session.started)) {
    rf_session_wake(); /* a further block: the settling starts anew */
    return;
  }
  /* The environment is read here, in a thread of QEMU's: the agent's could meet a setenv. */
  const char *path = getenv("RAMFOLD_AGENT_SOCKET");
  if (path == NULL) path = RF_DEFAULT_SOCKET;
  if (*path == 0) return; /* switched off */
  strncpy(session.path, path, sizeof session.path - 1);
  session.settle_ms = (int)number_from("RAMFOLD_SETTLE_MS", SETTLE_MS_DEFAULT);
  rf_gate_limit_hold_ms(number_from("RAMFOLD_HOLD_MS", RF_HOLD_MS_MAX));
  rf_unfold_limit_ms(number_from("RAMFOLD_UNFOLD_MS", RF_UNFOLD_MS_MAX));

  const int wake = (int)rf_raw3(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK, 0);
  if (wake < 0) return;
  atomic_store(&session.wake, rf_own_keep(wake) + 1);

  pthread_t thread;
  pthread_attr_t attributes;
  sigset_t all, before;
  sigfillset(&all);
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_sigmask(SIG_BLOCK, &all, &before); /* QEMU's signals are for QEMU's threads */
  const int failed = pthread_create(&thread, &attributes, run, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (failed != 0) rf_say(RF_SAY_THREAD, "ramfold: no thread for the agent (%d)", failed);
}

/* ---- the thread ---- */

static void drain_wake(void) {
  uint64_t count;
  (void)rf_sys_read(atomic_load(&session.wake) - 1, &count, sizeof count);
}

static void settle(void) {
  for (;;) {
    struct pollfd wake = {atomic_load(&session.wake) - 1, POLLIN, 0};
    /* No RAM: what there was has been unmapped again. */
    const bool wait = rf_ram_count() == 0 || atomic_load(&session.unsettled) != 0;
    if (rf_sys_poll(&wake, 1, wait ? -1 : session.settle_ms) == 0) return;
    drain_wake();
  }
}

static void send_hello(struct connection *c) {
  struct rf_hello hello = {
      .version_min = RF_VERSION_MIN,
      .version_max = RF_VERSION_MAX,
      .blocks = rf_ram_count(),
      .capabilities = RF_CAP_DISCARD | RF_CAP_BUFFERED | RF_CAP_CONSUMERS | RF_CAP_FILLS,
      .hazards = rf_facts_lasting(),
      .folded = rf_gate_folded() ? 1 : 0};
  rf_facts_mark_open();
  memcpy(hello.instance, session.instance, sizeof hello.instance);
  if (rf_send(c->socket, &hello, sizeof hello, RF_HELLO, 0, 0, NULL, 0) != 0) c->over = true;
}

/* Takes the descriptor of /dev/userfaultfd. The daemon does UFFDIO_API: it knows which features it
   wants. */
static int userfaultfd_from(int device) {
  if (session.uffd < 0 && device >= 0) {
    const int made = rf_sys_ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (made < 0) {
      rf_say(RF_SAY_UFFD, "ramfold: no userfaultfd (%s); running without folding",
             strerrordesc_np(-made));
    } else {
      session.uffd = rf_own_keep(made);
    }
  }
  rf_own_drop(device);
  return session.uffd;
}

static void offer(struct connection *c, int device) {
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
    message.block[i] = (struct rf_block){
      block->address, block->size, block->offset, block->device, block->inode};
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

static void attach(struct connection *c, int shared, uint64_t pages, const uint8_t *instance) {
  if (shared < 0 || !rf_ram_frozen() || pages != rf_ram_pages()) {
    rf_own_drop(shared);
    rf_say(RF_SAY_SHARED, "ramfold: the daemon's idea of the RAM differs; not attached");
    c->refused = c->over = true;
    return;
  }
  rf_gate_serving(false);
  c->serving = false;
  switch (rf_gate_publish(shared, pages, c->generation)) {
    case RF_PUBLISHED:
      break;
    case RF_PUBLISH_BUSY: /* threads still inside older mappings: they end with the connection */
      c->over = true;
      return;
    case RF_PUBLISH_INVALID:
      rf_say(RF_SAY_SHARED, "ramfold: the daemon's shared memory is not usable; not attached");
      c->refused = c->over = true;
      return;
  }
  if (memcmp(session.instance, instance, sizeof session.instance) != 0) rf_unfold_released(false);
  memcpy(session.instance, instance, sizeof session.instance);
  advise_blocks();
  c->ready_due = true;
}

static void send_ready(struct connection *c) {
  if (!rf_gate_quiet()) return;
  rf_gate_sticky(rf_facts_lasting());
  struct rf_ready ready = {0};
  memcpy(ready.instance, session.instance, sizeof ready.instance);
  rf_gate_serving(true); /* first: the daemon may fold as soon as it has the message */
  const int sent =
    rf_send(c->socket, &ready, sizeof ready, RF_READY, 0, c->generation, NULL, 0);
  if (sent == 0) {
    c->ready_due = false;
    c->serving = true;
    return;
  }
  rf_gate_serving(false);
  if (sent != -EAGAIN) c->over = true;
}

static void send_hint(struct connection *c, uint16_t type, _Atomic uint32_t *hints) {
  const uint32_t hazards = atomic_exchange(hints, 0);
  if (hazards == 0) return;
  struct rf_hold hold = {.hazard = hazards};
  struct rf_gate gate;
  rf_gate_enter(&gate);
  if (rf_gate_stands(&gate)) hold.sequence = atomic_load(&gate.shared->sequence);
  rf_gate_leave(&gate);
  (void)rf_send(c->socket, &hold, sizeof hold, type, RF_FLAG_SKIPPABLE, c->generation, NULL, 0);
}

static void send_unfolds(struct connection *c) {
  struct rf_unfold unfold;
  memset(&unfold, 0, sizeof unfold);
  while (rf_unfold_next(&unfold.token, &unfold.hazard)) {
    if (rf_send(c->socket, &unfold, sizeof unfold, RF_UNFOLD, 0, c->generation, NULL, 0) == 0)
      continue;
    rf_unfold_unsent(unfold.token);
    return;
  }
}

static void welcome(struct connection *c, const struct rf_welcome *m, int fd) {
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
    case RF_ACTION_OFFER:
      offer(c, fd);
      return;
    case RF_ACTION_RESUME:
      attach(c, fd, rf_ram_pages(), m->instance);
      return;
    default: /* RF_ACTION_WAIT, and what later versions may add */
      rf_own_drop(fd);
      return;
  }
}

static void detached(struct connection *c) {
  rf_gate_stop();
  rf_gate_serving(false);
  rf_unfold_all_ok();
  c->serving = c->ready_due = false;
}

static void unfolded(const struct rf_unfolded *m) {
  uint32_t hazard;
  rf_unfold_answer(m->token, m->ok == 1, &hazard);
  if (m->ok != 1 || hazard == 0) return;
  /* Recorded before the next message: a daemon that dies now must not be resumed as if it might
     still fold. */
  rf_facts_add(hazard);
  rf_gate_sticky(hazard);
  rf_unfold_released(true);
}

static void refused(struct connection *c, struct rf_refused *m) {
  m->text[RF_TEXT_MAX - 1] = 0;
  for (char *t = m->text; *t != 0; ++t)
    if (*t < ' ' || *t == 127) *t = ' ';
  rf_say(RF_SAY_REFUSED, "ramfold: refused: %s", m->text);
  c->refused = c->over = true;
}

static size_t length_of(uint16_t type) {
  switch (type) {
    case RF_WELCOME:
      return sizeof(struct rf_welcome);
    case RF_ATTACHED:
      return sizeof(struct rf_attached);
    case RF_UNFOLDED:
      return sizeof(struct rf_unfolded);
    case RF_REFUSED:
      return sizeof(struct rf_refused);
    case RF_PING:
    case RF_DETACHED:
      return sizeof(struct rf_ping);
    default:
      return 0;
  }
}

static void protocol_error(struct connection *c) {
  rf_say(RF_SAY_PROTOCOL, "ramfold: the daemon does not speak the agent's protocol");
  c->refused = c->over = true;
}

static void handle(struct connection *c, struct rf_received *received) {
  union rf_message *m = received->message;
  int fd = received->fd;
  const size_t needed = length_of(m->h.type);
  if (needed == 0) {
    if ((m->h.flags & RF_FLAG_SKIPPABLE) == 0) protocol_error(c);
  } else if (m->h.length < needed) {
    protocol_error(c);
  } else if (c->welcomed && (int32_t)(m->h.generation - c->generation) < 0) {
    /* a command of a session that is over (D10) */
  } else if (m->h.type == RF_WELCOME) {
    welcome(c, &m->welcome, fd);
    fd = -1;
  } else if (m->h.type == RF_REFUSED) {
    refused(c, &m->refused);
  } else if (m->h.type == RF_PING) {
    struct rf_ping pong;
    (void)rf_send(c->socket, &pong, sizeof pong, RF_PONG, 0, m->h.generation, NULL, 0);
  } else if (!c->welcomed) {
    protocol_error(c);
  } else if (m->h.type == RF_ATTACHED) {
    attach(c, fd, m->attached.pages, m->attached.instance);
    fd = -1;
  } else if (m->h.type == RF_UNFOLDED) {
    unfolded(&m->unfolded);
  } else if (m->h.type == RF_DETACHED) {
    detached(c);
  }
  rf_own_drop(fd);
}

static void receive(struct connection *c) {
  static union rf_message message; /* this thread's alone; too large for its stack's taste */
  struct rf_received received = {.message = &message};
  switch (rf_receive(c->socket, &received)) {
    case 1:
      handle(c, &received);
      return;
    case 0:
      return;
    case -3:
      rf_say(RF_SAY_VERSION, "ramfold: the daemon speaks another protocol than this agent's");
      c->refused = c->over = true;
      return;
    case -2:
      protocol_error(c);
      return;
    case -4:
      c->over = true;
      return;
    default:
      c->over = c->gone = true;
  }
}

/* The agent ends the connection to a daemon that may have runs under way, and its closing of the
   socket is what says that they are over: threads that hold must wait for it. No error ends it. */
static void drain(int socket) {
  static char dropped[64];
  rf_raw3(SYS_shutdown, socket, SHUT_WR, 0);
  for (;;) {
    struct pollfd event = {socket, POLLIN, 0};
    (void)rf_sys_poll(&event, 1, -1);
    const long length = rf_sys_read(socket, dropped, sizeof dropped);
    if (rf_hung_up(length)) return;
    if (length < 0 && length != -EAGAIN && length != -EINTR) rf_sleep_us(POLL_MS_READY * 1000);
  }
}

static enum ended serve(int socket, bool *welcomed) {
  struct connection c = {.socket = socket};
  send_hello(&c);
  while (!c.over) {
    int timeout_ms = -1;
    if (c.ready_due) timeout_ms = POLL_MS_READY;
    if (c.serving && rf_unfold_wanted()) timeout_ms = POLL_MS_UNSENT;
    struct pollfd events[2] = {{socket, POLLIN, 0}, {atomic_load(&session.wake) - 1, POLLIN, 0}};
    (void)rf_sys_poll(events, 2, timeout_ms);
    if ((events[1].revents & POLLIN) != 0) drain_wake();
    if (events[0].revents != 0) receive(&c);
    if (c.ready_due && !c.over) send_ready(&c);
    if (c.serving && !c.over) {
      send_hint(&c, RF_HOLD, &session.hold_hints);
      send_hint(&c, RF_CHANGED, &session.changed_hints);
      send_unfolds(&c);
    }
  }
  if (!c.gone && rf_gate_standing()) {
    drain(socket);
    c.gone = true;
  }
  if (c.gone && c.welcomed) rf_gate_hung_up(c.generation);
  *welcomed = c.welcomed && !c.refused;
  return c.refused ? ENDED_REFUSED : ENDED;
}

/* A restart of the daemon is nothing to speak of; a long absence with pages folded is. */
static void say_absent(int error, bool seen_before, bool long_since) {
  if (!seen_before) {
    rf_say(RF_SAY_NO_DAEMON, "ramfold: no daemon at %s (%s); running without folding",
           session.path, strerrordesc_np(error));
  } else if (long_since && rf_gate_standing()) {
    rf_say(RF_SAY_GONE, "ramfold: the daemon at %s is gone (%s); folded memory waits for it",
           session.path, strerrordesc_np(error));
  }
}

static void *run(void *unused) {
  (void)unused;
  rf_raw3(SYS_prctl, PR_SET_NAME, (long)"ramfold-agent", 0);
  settle();
  unsigned backoff_ms = BACKOFF_MS_MIN;
  bool seen_before = false;
  for (;;) {
    const int socket = rf_connect(session.path);
    if (socket < 0) {
      say_absent(-socket, seen_before, backoff_ms == BACKOFF_MS_MAX);
    } else {
      seen_before = true;
      bool welcomed = false;
      const enum ended how = serve(socket, &welcomed);
      rf_gate_serving(false);
      rf_own_drop(socket);
      rf_unfold_again();
      if (welcomed) backoff_ms = BACKOFF_MS_MIN;
      if (how == ENDED_REFUSED) backoff_ms = BACKOFF_MS_MAX;
    }
    rf_sleep_us(backoff_ms * 1000);
    backoff_ms = backoff_ms * 2 > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : backoff_ms * 2;
  }
  return NULL;
}
