// SPDX-License-Identifier: GPL-2.0-or-later
// A pool of scratch objects that threads borrow for a moment. A thread gets the one that was given
// back last, so only as many objects have memory behind them as were in use at once. For work that
// takes much longer than to fetch the object from the cache of another core; for other work see
// store/scratch.hpp.
//
// Threads: any. A thread that must not allocate calls prepare() before.
// Locks: a leaf, never held over a system call; memory is allocated and freed without it.
#pragma once

#include <memory>

#include "base/thread_annotations.hpp"

namespace ramfold::store {

// One pool for all threads. T has a default constructor that touches little of it, and a member
// `T* next`.
template <typename T>
class ScratchPool {
 public:
  // Borrows an object while this lives.
  class Lease {
   public:
    Lease() {
      prepare();  // so that this thread does not borrow an object that another one has prepared
      mine_ = only().take();
    }
    ~Lease() { only().give(mine_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    T& operator*() const noexcept { return *mine_; }

   private:
    T* mine_ = nullptr;
  };

  // Adds an object to the pool until this thread ends.
  static void prepare() { thread_local const Prepared prepared; }

 private:
  struct Prepared {
    Prepared() { only().add(new T); }
    ~Prepared() { only().remove(); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
  };

  // The pool is never destroyed, so it outlives every thread.
  static ScratchPool& only() noexcept {
    static ScratchPool pool;
    return pool;
  }

  // At the end of the list: objects that were used before come first.
  void add(T* one) noexcept {
    const MutexLock lock(mutex_);
    T** last = &free_;
    while (*last != nullptr) last = &(*last)->next;
    *last = one;
  }
  T* take() {
    {
      const MutexLock lock(mutex_);
      if (free_ != nullptr) {
        T* const mine = free_;
        free_ = mine->next;
        return mine;
      }
    }
    return new T;  // a second one at a time
  }
  void give(T* one) noexcept {
    std::unique_ptr<T> too_many;
    const MutexLock lock(mutex_);
    if (owed_ > 0) {
      --owed_;
      too_many.reset(one);
      return;
    }
    one->next = free_;
    free_ = one;
  }
  void remove() noexcept {
    std::unique_ptr<T> too_many;
    const MutexLock lock(mutex_);
    if (free_ == nullptr) {
      ++owed_;
      return;
    }
    too_many.reset(free_);
    free_ = free_->next;
  }

  Mutex mutex_{"ScratchPool"};
  T* free_ GUARDED_BY(mutex_) = nullptr;
  unsigned owed_ GUARDED_BY(mutex_) = 0;  // that many are deleted when they are given back
};

}  // namespace ramfold::store
