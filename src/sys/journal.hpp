// SPDX-License-Identifier: GPL-2.0-or-later
// Whether systemd's journal reads this process's stderr. The journal adds the time to each line
// itself, and takes a line's priority from a leading "<N>" (sd-daemon(3)).
// Threads: call it while there is only one, because it uses getenv(3).
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace ramfold::sys {

// systemd.exec(5): $JOURNAL_STREAM holds device and inode of the stream that the journal reads.
// A redirection of stderr does not change the variable, so both are compared with stderr's.
inline bool journal_reads_stderr() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat st{};
  if (stream == nullptr || ::fstat(STDERR_FILENO, &st) != 0) return false;
  return std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino) == stream;
}

}  // namespace ramfold::sys
