// SPDX-License-Identifier: GPL-2.0-or-later
// What the `ramfold` command's exit status means: ramfold(1) documents them. `exec` ends with the
// program's own, or 126 and 127 as env(1) does.
// Threads: constants.
#pragma once

namespace ramfold::cli {

enum class ExitCode : int {
  ok = 0,
  failed = 1,
  usage = 2,
  not_running = 3,  // no daemon behind the control socket
  refused = 4,      // for safety: would lose data or run out of memory
  problems = 5,     // doctor found some
  cannot_execute = 126,
  not_found = 127,
};

}  // namespace ramfold::cli
