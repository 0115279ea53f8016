// SPDX-License-Identifier: GPL-2.0-or-later
// A thread that does one task after another, in the order in which they came.
// Threads: post(), drain() and begin() from any; stop() from one. Tasks that had not begun at
// stop() are dropped.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

#include "sys/thread.hpp"

namespace ramfold::daemon {

class TaskThread {
 public:
  using Task = std::function<void()>;

  explicit TaskThread(const char* name) : name_(name) {}
  ~TaskThread() { stop(); }
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  // Starts the thread when it does not run. Tasks wait until it does.
  Status begin();
  void post(Task task);
  // Waits for all that was posted before. REQUIRES: not called by a task.
  void drain();
  void stop() noexcept;

 private:
  void run();

  const char* const name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable done_;
  std::deque<Task> tasks_;
  std::uint64_t posted_ = 0;
  std::uint64_t ended_ = 0;
  bool stopping_ = false;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
