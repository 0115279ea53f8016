// SPDX-License-Identifier: GPL-2.0-or-later
// A number for each thread: 0 for the first thread that asks, 1 for the next. Striped counters use
// it to give threads different stripes.
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
