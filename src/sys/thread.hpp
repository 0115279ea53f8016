// SPDX-License-Identifier: GPL-2.0-or-later
// A thread whose start can fail without an exception. The kernel refuses a thread when the unit has
// as many tasks as it may have, or when there is no memory for a stack; std::thread throws then,
// and that would end the daemon. The caller decides what to do when there is no thread.
// Threads: a Thread belongs to one owner; handle() may be used by any thread before join().
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <functional>
#include <utility>

#include "base/result.hpp"

namespace ramfold::sys {

class Thread {
 public:
  // Runs `run` on a new thread called `name` (the kernel takes the first 15 bytes). Errors: EAGAIN,
  // ENOMEM; then `run` has not run, and is destroyed here.
  static Result<Thread> start(const char* name, std::function<void()> run);

  Thread() noexcept = default;
  ~Thread() { join(); }
  Thread(Thread&& other) noexcept
      : handle_(other.handle_), is_there_(std::exchange(other.is_there_, false)) {}
  Thread& operator=(Thread&& other) noexcept {
    join();
    handle_ = other.handle_;
    is_there_ = std::exchange(other.is_there_, false);
    return *this;
  }

  // It was started, and neither joined nor left.
  explicit operator bool() const noexcept { return is_there_; }
  // REQUIRES: it is there.
  pthread_t handle() const noexcept { return handle_; }
  // Waits for its end; does nothing when it is not there.
  void join() noexcept;
  // Lets it run on without an owner.
  void leave() noexcept;

 private:
  explicit Thread(pthread_t handle) noexcept : handle_(handle), is_there_(true) {}

  pthread_t handle_{};
  bool is_there_ = false;
};

// The thread `tid` of this process runs, or waits for a processor (state R, proc_pid_stat(5)).
// False: it sleeps, has ended, or cannot be asked. Takes some microseconds; allocates nothing.
bool is_runnable(pid_t tid) noexcept;

// Test-only (builds with RAMFOLD_TEST_POINTS): returns an errno to fail a start with, or 0.
using ThreadInjector = int (*)(const char* name) noexcept;
void set_thread_injector(ThreadInjector injector) noexcept;

}  // namespace ramfold::sys
