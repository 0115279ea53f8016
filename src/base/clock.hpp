// SPDX-License-Identifier: GPL-2.0-or-later
// Monotonic and CPU clocks, and sleeping, in nanoseconds.
#pragma once

#include <cstdint>
#include <ctime>

namespace ramfold {

inline std::uint64_t clock_ns(clockid_t id) noexcept {
  timespec t{};
  ::clock_gettime(id, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(t.tv_nsec);
}
inline std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }
inline std::uint64_t thread_cpu_ns() noexcept { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
inline std::uint64_t process_cpu_ns() noexcept { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

// A signal may end the sleep early.
inline void sleep_ns(std::uint64_t ns) noexcept {
  const timespec t{static_cast<time_t>(ns / 1'000'000'000u),
                   static_cast<long>(ns % 1'000'000'000u)};
  ::nanosleep(&t, nullptr);
}

}  // namespace ramfold
