// SPDX-License-Identifier: GPL-2.0-or-later
// For crash tests; only in builds with test points. RAMFOLD_KILL_AT="fold.word:3" in the
// environment kills the daemon (SIGKILL) when it reaches the test point fold.word for the third
// time.
// Threads: the main thread, before it starts others.
#pragma once

namespace ramfold::daemon {

void arm_kill_point();

}  // namespace ramfold::daemon
