/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the daemon has done to RAM by commands (wire.h). Whether a command may run at all is the
 * connection's to say; here it is checked against the RAM that was offered, whole, before anything
 * is done. Threads: the session's, so a command and the answer that lets a hazard begin never meet.
 */
#ifndef RAMFOLD_AGENT_CORE_COMMAND_H
#define RAMFOLD_AGENT_CORE_COMMAND_H

#include "agent/wire.h"

/* Fills in what became of it. REQUIRES: RAM is frozen, and the agent stands. */
void rf_command_run(const struct rf_command *command, struct rf_answer *answer);

#endif
