// SPDX-License-Identifier: GPL-2.0-or-later
// How long a test waits for an event: ten times what is normal, and longer on a machine that is
// busy or with a sanitizer. A test fails by what happened, never by how long it took.
// Threads: any.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>

namespace ramfold::test {

// Threads that want to run for each processor, now or in the last minute; at least 1. Four times
// that with a sanitizer.
inline double slower() {
  double minute = 0;
  double skipped = 0;
  double running = 0;
  std::ifstream("/proc/loadavg") >> minute >> skipped >> skipped >> running;
  const auto processors = static_cast<double>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  const double busy = std::max({1.0, minute / processors, running / processors});
  constexpr double kMax = 64;  // so that a test ends on any machine
  return std::min(kMax, std::getenv("RAMFOLD_SANITIZER") != nullptr ? 4 * busy : busy);
}

// `ms` on a machine that has nothing else to do.
inline int patient(int ms) { return static_cast<int>(ms * slower()); }

// For calls that wait at most `ms`: a second or more is a wait for what must come, and scaled; less
// is a look at what must not come.
inline int scaled(int ms) { return ms >= 1000 ? patient(ms) : ms; }

// Other threads or processes bring it about. False: they had 20 seconds, or longer where it is
// busy.
template <typename Condition>
bool soon(Condition condition, int ms = 20'000) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(patient(ms));
  while (!condition()) {
    if (Clock::now() >= end) return condition();
    ::usleep(500);
  }
  return true;
}

}  // namespace ramfold::test
