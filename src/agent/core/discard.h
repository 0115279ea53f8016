/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU discards RAM (balloon, free page reporting, virtio-mem). A folded page is a hole already, so
 * the discard itself changes nothing. The bit that is set before it says (T5): this hole is zero.
 * Threads: any; no locks. Waits for the daemon's fills that began before the bits were set: some
 * microseconds, or EBUSY after RF_HOLD_MS_MAX when the daemon was stopped in the middle of one.
 */
#ifndef RAMFOLD_AGENT_CORE_DISCARD_H
#define RAMFOLD_AGENT_CORE_DISCARD_H

#include "agent/core/gate.h"

#include <stddef.h>
#include <sys/types.h>

/* fallocate(PUNCH_HOLE) on a RAM file, whole pages. REQUIRES: stands. Returns as fallocate. */
int rf_discard_file(struct rf_gate *gate, int fd, int mode, off_t offset, off_t size,
                    uint64_t device, uint64_t inode);
/* madvise(MADV_REMOVE) on a range that meets RAM. REQUIRES: stands. Returns as madvise. */
int rf_discard_range(struct rf_gate *gate, void *at, size_t size);

#endif
