// SPDX-License-Identifier: GPL-2.0-or-later
// Clang's thread-safety attributes, and a mutex, a lock and a condition variable with these
// attributes. A member names the mutex that guards it. A function names the mutex that its caller
// holds. A mutex names the mutex that is locked after it. clang checks this (tests/tidy/locks.py);
// gcc ignores it.
// https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
// Threads: any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/lock_order.hpp"

#ifdef __clang__
#define RAMFOLD_ATTRIBUTE(x) __attribute__((x))
#else
#define RAMFOLD_ATTRIBUTE(x)
#endif

// GUARDED_BY(&Owner::mutex_) is for structs inside a class Owner, which cannot name the Owner
// object: it means the mutex of any Owner. ACQUIRED_BEFORE(&Other::mutex) names a mutex of another
// class. clang checks the order only inside one function. The order through calls is checked while
// tests run, between mutexes that have a name (base/lock_order.hpp).
#define CAPABILITY(name) RAMFOLD_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY RAMFOLD_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(lock) RAMFOLD_ATTRIBUTE(guarded_by(lock))
#define ACQUIRED_BEFORE(...) RAMFOLD_ATTRIBUTE(acquired_before(__VA_ARGS__))
#define REQUIRES(...) RAMFOLD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) RAMFOLD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) RAMFOLD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) RAMFOLD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) RAMFOLD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(lock) RAMFOLD_ATTRIBUTE(assert_capability(lock))
#define RETURN_CAPABILITY(lock) RAMFOLD_ATTRIBUTE(lock_returned(lock))

namespace ramfold {

class CAPABILITY("mutex") Mutex {
 public:
  constexpr Mutex() noexcept : Mutex(nullptr) {}
  // Takes part in the check of the lock order under this name.
  explicit constexpr Mutex(const char* name) noexcept : order_(name) {}

  void lock() ACQUIRE() {
    order_.check();
    mutex_.lock();
    order_.locked();
  }
  void unlock() RELEASE() {
    order_.unlocked();
    mutex_.unlock();
  }
  // Never waits, so any order is right.
  bool try_lock() TRY_ACQUIRE(true) {
    if (!mutex_.try_lock()) return false;
    order_.locked();
    return true;
  }
  // Does nothing at run time. Call it first in a lambda that runs under the mutex: the analysis
  // treats a lambda as a function of its own, which holds no mutex.
  void is_held() const noexcept ASSERT_CAPABILITY(this) {}

 private:
  friend class CondVar;
  std::mutex mutex_;
  [[no_unique_address]] LockOrder order_;
};

// Holds a mutex for its scope. Work between unlock() and lock() runs without the mutex.
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  // For a mutex that the caller holds already, after try_lock().
  MutexLock(Mutex& mutex, std::adopt_lock_t) REQUIRES(mutex) : mutex_(mutex) {}
  ~MutexLock() RELEASE() {
    if (held_) mutex_.unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void unlock() RELEASE() {
    held_ = false;
    mutex_.unlock();
  }
  void lock() ACQUIRE() {
    mutex_.lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

// A condition variable for a Mutex. A wait may end early, so the caller waits in a loop. There are
// no waits with a predicate, because in a lambda the analysis does not see that the mutex is held.
class CondVar {
 public:
  using Clock = std::chrono::steady_clock;

  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    changed_.wait(lock);
    lock.release();
  }
  void wait_for(Mutex& mutex, std::chrono::nanoseconds most) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    changed_.wait_for(lock, most);
    lock.release();
  }
  // False: `end` has passed.
  bool wait_until(Mutex& mutex, Clock::time_point end) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    const bool in_time = changed_.wait_until(lock, end) == std::cv_status::no_timeout;
    lock.release();
    return in_time;
  }
  void notify_one() noexcept { changed_.notify_one(); }
  void notify_all() noexcept { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

}  // namespace ramfold
