// SPDX-License-Identifier: GPL-2.0-or-later
// A thread that runs one task after another, in the order of post().
// Threads: post(), drain() and begin() from any; stop() from one. Tasks that had not begun at
// stop() are dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "base/thread_annotations.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class TaskThread {
 public:
  using Task = std::function<void()>;

  explicit TaskThread(const char* name) : name_(name) {}
  ~TaskThread() { stop(); }
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  // Starts the thread unless it runs already. Tasks wait until it runs.
  Status begin();
  void post(Task task);
  // Waits for all tasks posted before the call, or for stop(). REQUIRES: no task calls this.
  void drain();
  void stop() noexcept;

 private:
  void run();

  const char* const name_;
  Mutex mutex_{"TaskThread"};
  CondVar changed_;
  CondVar done_;
  std::deque<Task> tasks_ GUARDED_BY(mutex_);
  std::uint64_t posted_ GUARDED_BY(mutex_) = 0;
  std::uint64_t ended_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
