// SPDX-License-Identifier: GPL-2.0-or-later
// Clears VMs away whose process has ended, each on a thread of its own (daemon/threads/apart.hpp):
// a process that shares the memory of the ended one may hold that thread up. One VM of an owner at
// a time; after a moment the owner's next VM is begun all the same. So VMs that are held up delay
// no VM of another owner, and those of their own owner by a moment each.
// Threads: add(), drain() and begin() from any; stop() from one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <utility>

#include "base/thread_annotations.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "sys/subordinate_ids.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class Undertaker {
 public:
  struct Patience {
    // A burial that takes longer does not delay the next one of its owner.
    std::uint64_t next_ns = 1'000'000'000;
    // drain() waits for no burial that takes longer. Enough for the largest VM.
    std::uint64_t drain_ns = 60'000'000'000;
  };
  using Bury = std::function<void(VmHandle vm)>;

  // REQUIRES: `keeping` outlives this. This outlives every call of `bury`: the caller waits for
  // count_apart().
  Undertaker(Keeping& keeping, Bury bury)
      : Undertaker(keeping, std::move(bury), Patience{}, sys::SubordinateIds{}) {}
  Undertaker(Keeping& keeping, Bury bury, Patience patience, sys::SubordinateIds ids)
      : keeping_(keeping), bury_(std::move(bury)), patience_(patience), ids_(std::move(ids)) {}
  ~Undertaker() { stop(); }
  Undertaker(const Undertaker&) = delete;
  Undertaker& operator=(const Undertaker&) = delete;

  // Starts the thread unless it runs already. VMs wait until it runs.
  Status begin();
  // The keeper drops the VM, then bury(vm) runs on a thread of its own.
  void add(VmHandle dead);
  // Waits until every VM that was added before is cleared away or held up, or for stop().
  void drain();
  // VMs that were not begun are let go of. Does not wait for burials that run.
  void stop() noexcept;

 private:
  struct Entry {
    VmHandle vm;  // used by the burial alone, once that has begun
    uid_t account = 0;
    std::uint64_t number = 0;                                    // in the order of add()
    std::uint64_t began_ns GUARDED_BY(&Undertaker::mutex_) = 0;  // 0: not begun
    bool dropped = false;  // the keeper was told; for the undertaker's thread
  };
  using Entries = std::list<Entry>;

  void run();
  // The first VM that may be begun. None: end(), and `wait_ns` says when to look again (0: when
  // something changes).
  Entries::iterator next(std::uint64_t& wait_ns) REQUIRES(mutex_);
  bool begin_burial(Entries::iterator entry) EXCLUDES(mutex_);

  Keeping& keeping_;
  const Bury bury_;
  const Patience patience_;
  Mutex mutex_{"Undertaker"};  // no other lock is taken under it
  CondVar changed_;
  sys::SubordinateIds ids_ GUARDED_BY(mutex_);
  Entries entries_ GUARDED_BY(mutex_);  // a burial that has begun erases its entry at its end
  std::uint64_t added_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
