/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which of QEMU's mappings are its RAM. Threads: any. */
#ifndef RAMFOLD_AGENT_PRELOAD_FOUND_H
#define RAMFOLD_AGENT_PRELOAD_FOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Tells the core of a new mapping, if it is RAM. True when the core has listed it. */
bool rf_found_ram(void *at, size_t size, int flags, int fd, off_t offset);

#endif
