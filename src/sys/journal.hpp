// SPDX-License-Identifier: GPL-2.0-or-later
// Whether the journal reads what this process writes to stderr: it stamps the time itself, and
// takes a priority from "<N>" before a line (sd-daemon(3)).
// Threads: before others are made; getenv(3).
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace ramfold::sys {

// systemd.exec(5): $JOURNAL_STREAM holds device and inode of the stream that the journal reads.
// Whoever redirects stderr leaves the variable as it is, so both are compared.
inline bool journal_reads_stderr() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat st{};
  if (stream == nullptr || ::fstat(STDERR_FILENO, &st) != 0) return false;
  return std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino) == stream;
}

}  // namespace ramfold::sys
