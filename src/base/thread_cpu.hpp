// SPDX-License-Identifier: GPL-2.0-or-later
// The CPU time of a thread, for other threads to read. Costs the thread nothing while it runs.
// Threads: started() and ended() from the thread itself, ns() from any.
#pragma once

#include <pthread.h>
#include <atomic>
#include <cstdint>

#include "base/clock.hpp"

namespace ramfold {

class ThreadCpu {
 public:
  void started() noexcept {
    clockid_t clock{};
    if (::pthread_getcpuclockid(::pthread_self(), &clock) == 0)
      clock_.store(clock, std::memory_order_release);
  }
  void ended() noexcept { total_.store(thread_cpu_ns(), std::memory_order_release); }
  // Nanoseconds since the thread began; 0 before started().
  std::uint64_t ns() const noexcept {
    const clockid_t clock = clock_.load(std::memory_order_acquire);
    timespec t{};
    // The clock disappears when the thread ends; before that, ended() stored the total.
    if (total_.load(std::memory_order_acquire) == 0 && clock != kNone &&
        ::clock_gettime(clock, &t) == 0) {
      return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u +
             static_cast<std::uint64_t>(t.tv_nsec);
    }
    return total_.load(std::memory_order_acquire);
  }

 private:
  static constexpr clockid_t kNone = 0;  // CLOCK_REALTIME, never a thread's

  std::atomic<clockid_t> clock_{kNone};
  std::atomic<std::uint64_t> total_{0};
};

}  // namespace ramfold
