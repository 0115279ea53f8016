// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/task_thread.hpp"

#include <utility>

namespace ramfold::daemon {

Status TaskThread::begin() {
  const std::lock_guard lock(mutex_);
  if (thread_ || stopping_) return {};
  auto thread = sys::Thread::start(name_, [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void TaskThread::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    ++posted_;
  }
  changed_.notify_one();
}

void TaskThread::drain() {
  std::unique_lock lock(mutex_);
  const std::uint64_t until = posted_;
  done_.wait(lock, [&] { return stopping_ || ended_ >= until; });
}

void TaskThread::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  done_.notify_all();
  thread_.join();
}

void TaskThread::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (tasks_.empty()) {
      changed_.wait(lock);
      continue;
    }
    Task task = std::exchange(tasks_.front(), nullptr);
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes here, not under the lock
    lock.lock();
    ++ended_;
    done_.notify_all();
  }
}

}  // namespace ramfold::daemon
