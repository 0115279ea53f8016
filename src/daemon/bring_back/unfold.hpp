// SPDX-License-Identifier: GPL-2.0-or-later
// Brings all pages of a VM back: for detach, for off, and for another consumer of its RAM (D13).
// The VM stays attached; the caller may remove it afterwards.
// Threads: one call per VM at a time (AttachedVm::unfolding).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.hpp"
#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::daemon {

// Estimates memory and time. `pages` does not count zero pages: they need no memory until they are
// touched. `read_ns`: the mean time to read one page from the store.
control::UnfoldPlan plan_unfold(const AttachedVm& vm, ByteCount available, double read_ns);

// `progress` is called after every page, with the number of pages that are back.
// On success nothing of the VM is folded, guarded or registered; or the VM has ended. The gate
// stays closed while vm.unfolding is set; the caller clears that.
// Errors: EIO, as success except for lost pages, which stay registered and must be served (a hole
// that nobody serves reads as zeros). ENOMEM; ECANCELED, `stop` was set; EAGAIN, pages were busy
// for too long: the pages that are not back yet stay folded and served. REQUIRES: the caller has
// set vm.unfolding.
Status unfold(AttachedVm& vm, const std::function<void(std::uint64_t done)>& progress,
              const std::atomic<bool>& stop);

// Sets AttachedVm::unfolding, and clears it when the last owner of this object is gone.
class Unfolding {
 public:
  explicit Unfolding(VmHandle vm) : vm_(std::move(vm)), first_(!vm_->unfolding.exchange(true)) {}
  ~Unfolding() {
    if (first_) vm_->unfolding.store(false);
  }
  Unfolding(const Unfolding&) = delete;
  Unfolding& operator=(const Unfolding&) = delete;
  bool first() const noexcept { return first_; }  // true: this object has set the flag
  const VmHandle& vm() const noexcept { return vm_; }

 private:
  VmHandle vm_;
  bool first_;
};

// Runs unfold() on a thread of its own, because the VM's process may hold it up. ETIMEDOUT: no page
// came back for `patience_ns`. Then unfold() goes on, and until it ends the VM stays `unfolding`
// and counts as `held`.
// REQUIRES: unfolding->first().
Status unfold_apart(const std::shared_ptr<Unfolding>& unfolding, std::uint64_t patience_ns,
                    const std::function<void(std::uint64_t done)>& progress,
                    const std::atomic<bool>& stop);

}  // namespace ramfold::daemon
