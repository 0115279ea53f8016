// SPDX-License-Identifier: GPL-2.0-or-later
// All attached VMs. It also knows VMs that have left and are still there, because a thread uses or
// closes them: the process of a VM can hold such a thread up.
// Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
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
    std::erase_if(leaving_, [](const Leaving& one) { return one.exists.expired(); });
    for (const VmHandle& vm : vms_) {
      if (vm->vm->id() == id) leaving_.push_back({vm->vm->record().uid, vm->exists});
    }
    return std::erase_if(vms_, [id](const VmHandle& v) { return v->vm->id() == id; }) != 0;
  }
  // The user of each VM of the set, and of each VM that has left and is still there.
  std::vector<uid_t> users() const {
    const MutexLock lock(mutex_);
    std::vector<uid_t> users;
    users.reserve(vms_.size());
    for (const VmHandle& vm : vms_) users.push_back(vm->vm->record().uid);
    for (const Leaving& one : leaving_) {
      if (!one.exists.expired()) users.push_back(one.uid);
    }
    return users;
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
  struct Leaving {
    uid_t uid;
    std::weak_ptr<const bool> exists;
  };

  std::atomic<std::uint64_t> changes_{1};
  mutable Mutex mutex_{"VmSet"};
  std::vector<VmHandle> vms_ GUARDED_BY(mutex_);
  std::vector<Leaving> leaving_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
