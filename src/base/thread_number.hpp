// SPDX-License-Identifier: GPL-2.0-or-later
// A number for each thread, in the order in which they ask: what spreads threads over the stripes
// of a counter.
// Threads: any.
#pragma once

#include <atomic>
#include <cstddef>

namespace ramfold {

inline std::size_t thread_number() noexcept {
  static std::atomic<std::size_t> threads{0};
  thread_local const std::size_t mine = threads.fetch_add(1, std::memory_order_relaxed);
  return mine;
}

}  // namespace ramfold
