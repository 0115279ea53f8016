// SPDX-License-Identifier: GPL-2.0-or-later
// For crash tests, in builds with test points alone: RAMFOLD_KILL_AT="fold.word:3" in the
// environment ends the daemon by SIGKILL when it reaches that point for the third time.
// Threads: main, before any other.
#pragma once

namespace ramfold::daemon {

void arm_kill_point();

}  // namespace ramfold::daemon
