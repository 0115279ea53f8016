/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions that the core needs from the program that it lives in. A library that is preloaded
 * into QEMU is one such host (preload/); a build of QEMU's own would be another. The host also
 * tells the core what happens: RAM that is mapped (rf_ram_add) and lost, hazards (hazard.h),
 * discards (discard.h), and that this process is a child of the one that it was (rf_reset_child).
 *
 * The core's other system calls go to the kernel directly (raw.h).
 */
#ifndef RAMFOLD_AGENT_CORE_HOST_H
#define RAMFOLD_AGENT_CORE_HOST_H

#include <stddef.h>
#include <sys/types.h>

struct rf_host {
  /* A setting of the operator's, such as "RAMFOLD_AGENT_SOCKET"; null: none. From the thread that
     calls rf_session_start. */
  const char *(*setting)(const char *name);
  /* A whole line with its newline, for the user. */
  void (*say)(const char *line, size_t length);
  /* As libc's. They do not call the core, unlike the functions of the same name that the program
     calls. Any thread. */
  int (*fallocate)(int fd, int mode, off_t offset, off_t size);
  int (*madvise)(void *at, size_t size, int advice);
};

/* The host defines it. Constant, so that it is there before any constructor has run. */
extern const struct rf_host rf_host;

#endif
