// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the references of a VM after a restart, as Recovery does when nothing holds a page for
// long.
// Threads: one at a time for each VM.
#pragma once

#include <atomic>

#include "base/clock.hpp"
#include "daemon/custody/counting.hpp"

namespace ramfold::test {

inline void count_all(daemon::AttachedVm& vm, store::Contents& contents) {
  const std::atomic<bool> stop{false};
  daemon::Counting counting(vm);
  while (!counting.go_on(contents, stop)) sleep_ns(1'000'000);
}

}  // namespace ramfold::test
