// SPDX-License-Identifier: GPL-2.0-or-later
// What a thread works with for a moment, of those that lie ready: the one that was given back last,
// so that only as many have memory behind them as were in use at once. For work that is long beside
// fetching the scratch from another core's cache; else store/scratch.hpp.
//
// Threads: any. Locks: a leaf, never held over a system call: memory is taken and given back beside
// it. A thread that may not allocate has called prepare() before.
#pragma once

#include <memory>

#include "base/thread_annotations.hpp"

namespace ramfold::store {

// One pool for all threads. T has a default constructor that touches little of it, and a member
// `T* next`.
template <typename T>
class ScratchPool {
 public:
  // Borrowed for as long as this lives.
  class Lease {
   public:
    Lease() {
      prepare();  // a thread that did not takes none of those that others count on
      mine_ = only().take();
    }
    ~Lease() { only().give(mine_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    T& operator*() const noexcept { return *mine_; }

   private:
    T* mine_ = nullptr;
  };

  // One more lies ready until this thread ends.
  static void prepare() { thread_local const Prepared prepared; }

 private:
  struct Prepared {
    Prepared() { only().add(new T); }
    ~Prepared() { only().remove(); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
  };

  // Nothing of it is destroyed, so it outlives every thread.
  static ScratchPool& only() noexcept {
    static ScratchPool pool;
    return pool;
  }

  // Behind those that were used already.
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

  Mutex mutex_;
  T* free_ GUARDED_BY(mutex_) = nullptr;
  unsigned owed_ GUARDED_BY(mutex_) = 0;  // are to go when they come back
};

}  // namespace ramfold::store
