// SPDX-License-Identifier: GPL-2.0-or-later
// All attached VMs. Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::daemon {

class VmSet {
 public:
  std::vector<VmHandle> all() const {
    const MutexLock lock(mutex_);
    return vms_;
  }
  void add(VmHandle vm) {
    const MutexLock lock(mutex_);
    vms_.push_back(std::move(vm));
    changes_.fetch_add(1, std::memory_order_release);
  }
  // False: the set did not contain it.
  bool remove(VmId id) {
    const MutexLock lock(mutex_);
    changes_.fetch_add(1, std::memory_order_release);
    return std::erase_if(vms_, [id](const VmHandle& v) { return v->vm->id() == id; }) != 0;
  }
  VmHandle by_pid(pid_t pid) const {
    const MutexLock lock(mutex_);
    const auto found = std::ranges::find(vms_, pid, [](const VmHandle& v) { return v->vm->pid(); });
    return found == vms_.end() ? nullptr : *found;
  }
  std::size_t size() const {
    const MutexLock lock(mutex_);
    return vms_.size();
  }
  // Changes with every add() and remove(). Read it before all(): then no change is missed.
  std::uint64_t changes() const noexcept { return changes_.load(std::memory_order_acquire); }

 private:
  std::atomic<std::uint64_t> changes_{1};
  mutable Mutex mutex_{"VmSet"};
  std::vector<VmHandle> vms_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
