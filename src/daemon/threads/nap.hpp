// SPDX-License-Identifier: GPL-2.0-or-later
// Waiting of background threads.
// Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/clock.hpp"

namespace ramfold::daemon {

// Until the monotonic clock says so, or a stop: that is heard soon.
inline void sleep_until(std::uint64_t end_ns, const std::atomic<bool>& stopping) noexcept {
  constexpr std::uint64_t kPartNs = 200'000'000;
  while (!stopping.load(std::memory_order_relaxed)) {
    const std::uint64_t now = monotonic_ns();
    if (now >= end_ns) return;
    sleep_ns(std::min(end_ns - now, kPartNs));
  }
}

}  // namespace ramfold::daemon
