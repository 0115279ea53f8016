/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the agent tells the user: at most one line for each cause in the life of the
 * process, and never anything else. Threads: any; errno is the caller's business.
 */
#ifndef RAMFOLD_AGENT_CORE_SAY_H
#define RAMFOLD_AGENT_CORE_SAY_H

enum rf_cause {
  RF_SAY_NO_DAEMON,
  RF_SAY_GONE,
  RF_SAY_VERSION,
  RF_SAY_REFUSED,
  RF_SAY_PROTOCOL,
  RF_SAY_UFFD,
  RF_SAY_SHARED,
  RF_SAY_THREAD,
  RF_SAY_FOLDED,
  RF_SAY_SETTING,
  RF_SAY_RAM,
  RF_SAY_POOL,
  RF_SAY_SILENT
};

void rf_say(enum rf_cause cause, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
