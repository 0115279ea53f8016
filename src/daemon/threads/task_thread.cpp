// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/task_thread.hpp"

#include <utility>

namespace ramfold::daemon {

Status TaskThread::begin() {
  const MutexLock lock(mutex_);
  if (thread_ || stopping_) return {};
  auto thread = sys::Thread::start(name_, [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void TaskThread::post(Task task) {
  {
    const MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
    ++posted_;
  }
  changed_.notify_one();
}

void TaskThread::drain() {
  const MutexLock lock(mutex_);
  const std::uint64_t until = posted_;
  while (!stopping_ && ended_ < until) done_.wait(mutex_);
}

void TaskThread::stop() noexcept {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  done_.notify_all();
  thread_.join();
}

void TaskThread::run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (tasks_.empty()) {
      changed_.wait(mutex_);
      continue;
    }
    Task task = std::exchange(tasks_.front(), nullptr);
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // destroys the task without the lock
    lock.lock();
    ++ended_;
    done_.notify_all();
  }
}

}  // namespace ramfold::daemon
