/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/preload/process.h"

#include "agent/core/raw.h"
#include "agent/core/reset.h"

#include <pthread.h>
#include <stdatomic.h>

static _Atomic int home; /* the pid, or 0 */

bool rf_at_home(void) {
  const int pid = atomic_load_explicit(&home, memory_order_acquire);
  return pid != 0 && pid == rf_sys_getpid();
}

/*
 * Runs in the child of fork(), where only one thread is left and any lock may be held by one that
 * no longer exists: atomics and system calls only. vfork, posix_spawn and clone do not come here,
 * but there the pid differs from home's.
 */
static void in_child(void) {
  atomic_store(&home, 0);
  rf_reset_child();
}

bool rf_make_home(void) {
  const int pid = rf_sys_getpid();
  int none = 0;
  if (atomic_compare_exchange_strong(&home, &none, pid)) {
    static atomic_flag registered = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&registered)) (void)pthread_atfork(NULL, NULL, in_child);
    return true;
  }
  return none == pid;
}
