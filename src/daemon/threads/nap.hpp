// SPDX-License-Identifier: GPL-2.0-or-later
// A flag that stops background threads, and ends their naps at once: guests may wait for the next
// daemon.
// Threads: any.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/clock.hpp"
#include "base/thread_annotations.hpp"

namespace ramfold::daemon {

class StopFlag {
 public:
  // Returns true if it was raised before.
  bool raise() noexcept {
    const MutexLock lock(mutex_);
    const bool before = raised_.exchange(true);
    heard_.notify_all();
    return before;
  }
  operator bool() const noexcept { return raised_.load(); }
  // For code that only reads the flag.
  operator const std::atomic<bool>&() const noexcept { return raised_; }

  // Sleeps until the monotonic clock reaches `end_ns` or the flag is raised.
  void sleep_until(std::uint64_t end_ns) const noexcept {
    const std::uint64_t now = monotonic_ns();
    if (now >= end_ns) return;
    const auto end = CondVar::Clock::now() + std::chrono::nanoseconds(end_ns - now);
    const MutexLock lock(mutex_);
    while (!raised_.load() && heard_.wait_until(mutex_, end)) {
    }
  }
  void sleep(std::uint64_t ns) const noexcept { sleep_until(monotonic_ns() + ns); }

 private:
  mutable Mutex mutex_{"StopFlag"};
  mutable CondVar heard_;
  std::atomic<bool> raised_{false};
};

}  // namespace ramfold::daemon
