// SPDX-License-Identifier: GPL-2.0-or-later
// An action at a test point, for executables that are built with them.
// Threads: one AtPoint at a time; the action runs on the thread that reaches the point.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>

#include "base/test_points.hpp"

namespace ramfold::test {

// Calls `action` the first time that the point is reached, by whichever thread.
class AtPoint {
 public:
  AtPoint(const char* name, std::function<void()> action) {
    s_name = name;
    s_action = std::move(action);
    s_armed = true;
    test_point_hook.store(reached);
  }
  ~AtPoint() { test_point_hook.store(nullptr); }
  bool passed() const { return !s_armed; }

 private:
  static void reached(const char* name) {
    if (std::strcmp(name, s_name) == 0 && s_armed.exchange(false)) s_action();
  }
  static inline const char* s_name = "";
  static inline std::function<void()> s_action;
  static inline std::atomic<bool> s_armed{false};
};

}  // namespace ramfold::test
