// SPDX-License-Identifier: GPL-2.0-or-later
// Clang's thread-safety attributes and a mutex that carries them: which lock guards what is written
// where the data is declared and checked by clang -Wthread-safety (other compilers see nothing).
// https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#include <mutex>

#ifdef __clang__
#define RAMFOLD_ATTRIBUTE(x) __attribute__((x))
#else
#define RAMFOLD_ATTRIBUTE(x)
#endif

#define CAPABILITY(name) RAMFOLD_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY RAMFOLD_ATTRIBUTE(scoped_lockable)
#define GUARDED_BY(lock) RAMFOLD_ATTRIBUTE(guarded_by(lock))
#define PT_GUARDED_BY(lock) RAMFOLD_ATTRIBUTE(pt_guarded_by(lock))
#define REQUIRES(...) RAMFOLD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) RAMFOLD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) RAMFOLD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) RAMFOLD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) RAMFOLD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define RETURN_CAPABILITY(lock) RAMFOLD_ATTRIBUTE(lock_returned(lock))
#define NO_THREAD_SAFETY_ANALYSIS RAMFOLD_ATTRIBUTE(no_thread_safety_analysis)

namespace ramfold {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  std::mutex mutex_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace ramfold
