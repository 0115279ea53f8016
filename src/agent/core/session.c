/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/core/session.h"

#include "agent/core/connection.h"
#include "agent/core/fds.h"
#include "agent/core/gate.h"
#include "agent/core/host.h"
#include "agent/core/mapping.h"
#include "agent/core/message.h"
#include "agent/core/ram.h"
#include "agent/core/raw.h"
#include "agent/core/reset.h"
#include "agent/core/say.h"
#include "agent/core/unfold.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#define SETTLE_MS_DEFAULT 500
#define BACKOFF_MS_MIN 100
#define BACKOFF_MS_MAX 2000
#define STACK_BYTES (256 * 1024)
/* How often to look whether another thread has done its part. */
#define POLL_MS_READY 1
#define POLL_MS_UNSENT 10
/* How often to look whether another daemon has replaced the connected one. A daemon that ends
   closes its connections, so this is for a daemon that cannot. */
#define LOOK_MS_ATTACHED 1000
#define LOOK_MS_WAITING 10000

/* A daemon that restarts may hang up once or twice. */
#define UNHEARD_MAX 4

enum ended { ENDED, ENDED_REFUSED }; /* how a connection ended */

static struct {
  atomic_flag started;
  _Atomic int wake; /* eventfd + 1; 0: none */
  _Atomic int unsettled;
  int settle_ms;
  char path[108];
} session = {.started = ATOMIC_FLAG_INIT};

/* ---- from QEMU's threads ---- */

void rf_session_wake(void) {
  const uint64_t one = 1;
  const int fd = atomic_load(&session.wake) - 1;
  if (fd >= 0) (void)rf_sys_write(fd, &one, sizeof one);
}

void rf_session_unsettled(int change) {
  atomic_fetch_add(&session.unsettled, change);
  rf_session_wake();
}

static void in_child(void) {
  atomic_store(&session.unsettled, 0);
  atomic_store(&session.wake, 0);
  atomic_flag_clear(&session.started);
}

RF_RESET(in_child, NULL);

static unsigned number_from(const char *name, unsigned fallback) {
  const char *text = rf_host.setting(name);
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
  /* Read here, on a thread of QEMU's: on the agent's, getenv could race with a setenv. */
  const char *path = rf_host.setting("RAMFOLD_AGENT_SOCKET");
  if (path == NULL) path = RF_DEFAULT_SOCKET;
  if (*path == 0) return; /* switched off */
  if (strlen(path) >= sizeof session.path) {
    rf_say(RF_SAY_SETTING,
           "ramfold: RAMFOLD_AGENT_SOCKET is longer than %zu bytes; running without "
           "folding",
           sizeof session.path - 1);
    return;
  }
  strcpy(session.path, path);
  session.settle_ms = (int)number_from("RAMFOLD_SETTLE_MS", SETTLE_MS_DEFAULT);
  rf_gate_limit_hold_ms(number_from("RAMFOLD_HOLD_MS", RF_HOLD_MS_MAX));
  rf_unfold_limit_ms(number_from("RAMFOLD_UNFOLD_MS", RF_UNFOLD_MS_MAX));

  const int wake = (int)rf_raw3(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK, 0);
  if (wake < 0) {
    rf_say(RF_SAY_THREAD, "ramfold: no eventfd for the agent (%s); running without folding",
           strerrordesc_np(-wake));
    return;
  }
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
  if (failed != 0)
    rf_say(RF_SAY_THREAD, "ramfold: no thread for the agent (%s); running without folding",
           strerrordesc_np(failed));
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

/* The agent ends a connection, and the daemon may have runs and fills under way. The daemon closes
   the socket when they are over. Only then the next connection may begin, so the close is awaited
   here. An error of the socket does not end the wait. A successor does: it begins only when nothing
   of the last daemon is under way. */
static void drain(const struct rf_connection *c) {
  static char dropped[64];
  const int socket = c->socket;
  rf_raw3(SYS_shutdown, socket, SHUT_WR, 0);
  while (!c->attached || rf_gate_session() == c->generation) {
    struct pollfd event = {socket, POLLIN, 0};
    if (rf_sys_poll(&event, 1, LOOK_MS_ATTACHED) == 0) continue;
    const long length = rf_sys_read(socket, dropped, sizeof dropped);
    if (rf_hung_up(length)) return;
    if (length < 0 && length != -EAGAIN && length != -EINTR) rf_sleep_us(POLL_MS_READY * 1000);
  }
}

static enum ended serve(int socket, const uint64_t at[2], bool *welcomed) {
  struct rf_connection c = {.socket = socket, .at = {at[0], at[1]}};
  long look_ms = rf_now_ms();
  rf_connection_hello(&c);
  while (!c.over) {
    int timeout_ms = c.attached ? LOOK_MS_ATTACHED : LOOK_MS_WAITING;
    if (c.ready_due) timeout_ms = POLL_MS_READY;
    if (c.serving && rf_unfold_wanted()) timeout_ms = POLL_MS_UNSENT;
    struct pollfd events[2] = {{socket, POLLIN, 0}, {atomic_load(&session.wake) - 1, POLLIN, 0}};
    (void)rf_sys_poll(events, 2, timeout_ms);
    if ((events[1].revents & POLLIN) != 0) drain_wake();
    if (events[0].revents != 0) rf_connection_receive(&c);
    const long now = rf_now_ms();
    if (now - look_ms >= (c.attached ? LOOK_MS_ATTACHED : LOOK_MS_WAITING)) {
      look_ms = now;
      rf_connection_look(&c, session.path);
    }
    if (c.ready_due && !c.over) rf_connection_ready(&c);
    if (c.serving && !c.over) rf_connection_unfolds(&c);
  }
  if (!c.gone && rf_gate_standing()) {
    drain(&c);
    c.gone = true;
  }
  if (c.gone && c.welcomed) rf_gate_hung_up(c.generation);
  *welcomed = c.welcomed && !c.refused;
  return c.refused ? ENDED_REFUSED : ENDED;
}

/* A restart of the daemon is not worth a line; a long absence while the agent stands is. */
static void say_absent(int error, bool seen_before, bool long_since) {
  if (!seen_before && error == EACCES) {
    rf_say(RF_SAY_NO_DAEMON,
           "ramfold: this user may not use %s: it is not in the group that "
           "agent_group of ramfold.toml names; running without folding",
           session.path);
  } else if (!seen_before) {
    rf_say(RF_SAY_NO_DAEMON, "ramfold: no daemon at %s (%s); running without folding", session.path,
           strerrordesc_np(error));
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
  unsigned unheard = 0; /* connections in a row that ended without a welcome */
  for (;;) {
    uint64_t at[2];
    rf_connection_path(session.path, at); /* first: a file that replaces it now differs */
    const int socket = rf_connect(session.path);
    if (socket < 0) {
      say_absent(-socket, seen_before, backoff_ms == BACKOFF_MS_MAX);
    } else {
      seen_before = true;
      bool welcomed = false;
      const enum ended how = serve(socket, at, &welcomed);
      rf_own_drop(socket);
      (void)rf_mapping_pool(-1); /* the next daemon sends its own */
      rf_unfold_again();
      if (welcomed) backoff_ms = BACKOFF_MS_MIN;
      unheard = welcomed || how == ENDED_REFUSED ? 0 : unheard + 1;
      if (unheard == UNHEARD_MAX)
        rf_say(RF_SAY_SILENT,
               "ramfold: the daemon at %s closes each connection without an answer (its log says "
               "why); running without folding",
               session.path);
      if (how == ENDED_REFUSED) backoff_ms = BACKOFF_MS_MAX;
    }
    rf_sleep_us(backoff_ms * 1000);
    backoff_ms = backoff_ms * 2 > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : backoff_ms * 2;
  }
  return NULL;
}
