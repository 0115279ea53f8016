// SPDX-License-Identifier: GPL-2.0-or-later
// A thread that does one task after another, in the order in which they came.
// Threads: post() and drain() from any; stop() from one. Tasks that had not begun at stop() are
// dropped.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace ramfold::daemon {

class TaskThread {
 public:
  using Task = std::function<void()>;

  explicit TaskThread(const char* name);
  ~TaskThread() { stop(); }
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  void post(Task task);
  // Waits for all that was posted before. REQUIRES: not called by a task.
  void drain();
  void stop() noexcept;

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable done_;
  std::deque<Task> tasks_;
  std::uint64_t posted_ = 0;
  std::uint64_t ended_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ramfold::daemon
