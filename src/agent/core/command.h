/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Carries out the daemon's commands on RAM (wire.h). The connection decides whether a command may
 * run. Here all of its runs are checked against the RAM that was offered, before the first one is
 * carried out. Threads: the session's, so no command runs beside the answer that lets a hazard
 * begin.
 */
#ifndef RAMFOLD_AGENT_CORE_COMMAND_H
#define RAMFOLD_AGENT_CORE_COMMAND_H

#include "agent/wire.h"

/* Runs the command and fills in the answer. REQUIRES: RAM is frozen, and the agent stands. */
void rf_command_run(const struct rf_command *command, struct rf_answer *answer);

#endif
