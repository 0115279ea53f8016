// SPDX-License-Identifier: GPL-2.0-or-later
// Named points at which a test may stop or kill the process: TEST_POINT("store.write"). They
// compile to nothing unless built with -DRAMFOLD_TEST_POINTS (meson -Dtest_points=true); then the
// hook that a test has set is called with the point's name, on the thread that reached it.
// Threads: the hook may be set and reached by any thread; it must be async-signal-safe if it kills.
#pragma once

#ifdef RAMFOLD_TEST_POINTS

#include <atomic>

namespace ramfold {
using TestPointHook = void (*)(const char* name);
inline std::atomic<TestPointHook> test_point_hook{nullptr};
inline void reach_test_point(const char* name) {
  if (const TestPointHook hook = test_point_hook.load(std::memory_order_acquire)) hook(name);
}
}  // namespace ramfold

#define TEST_POINT(name) ::ramfold::reach_test_point(name)

#else
#define TEST_POINT(name) static_cast<void>(0)
#endif
