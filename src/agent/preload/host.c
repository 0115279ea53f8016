/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The core's host: a QEMU that knows nothing of the agent. */
#include "agent/core/host.h"

#include "agent/core/raw.h"
#include "agent/preload/real.h"

#include <stdlib.h>

static const char *setting(const char *name) { return getenv(name); }
static void say(const char *line, size_t length) { (void)rf_sys_write(2, line, length); }

const struct rf_host rf_host = {
    .setting = setting, .say = say, .fallocate = rf_real_fallocate, .madvise = rf_real_madvise};
