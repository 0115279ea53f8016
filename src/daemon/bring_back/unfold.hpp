// SPDX-License-Identifier: GPL-2.0-or-later
// Brings everything of a VM back: for detach, for off, and for another consumer of its RAM (D13).
// Whoever asks lets go of the VM afterwards, or not.
// Threads: one call a VM at a time (AttachedVm::unfolding says so).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.hpp"
#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::daemon {

// What it would take. `pages` counts those whose bytes come back; zeros need none until they are
// touched. `read_ns`: what reading one of them from the store takes.
control::UnfoldPlan plan_unfold(const AttachedVm& vm, ByteCount available, double read_ns);

// `progress` is called after every page.
// Complete on success: nothing is folded, no page is guarded, nothing is registered; or the VM has
// ended. EIO: the same but for pages that are lost. Their words say so and they stay
// registered, so they must be served: a hole that nobody serves reads as zeros. On any other Error
// (ENOMEM, ECANCELED `stop` was set) the VM stays as it is and served; the gate stays closed while
// `unfolding` is set, which is the caller's to clear. REQUIRES: vm.unfolding was set by the caller.
Status unfold(AttachedVm& vm, const std::function<void(std::uint64_t done)>& progress,
              const std::atomic<bool>& stop);

// Says of a VM that it is being unfolded, until the last who knows of it has let go.
class Unfolding {
 public:
  explicit Unfolding(VmHandle vm) : vm_(std::move(vm)), first_(!vm_->unfolding.exchange(true)) {}
  ~Unfolding() {
    if (first_) vm_->unfolding.store(false);
  }
  Unfolding(const Unfolding&) = delete;
  Unfolding& operator=(const Unfolding&) = delete;
  bool first() const noexcept { return first_; }  // nobody else does it
  const VmHandle& vm() const noexcept { return vm_; }

 private:
  VmHandle vm_;
  bool first_;
};

// unfold() on a thread that the VM's process may hold up. ETIMEDOUT: nothing has come back for
// `patience_ns`; it goes on, the VM stays `unfolding` and counts as `held` until it ends.
// REQUIRES: unfolding->first().
Status unfold_apart(const std::shared_ptr<Unfolding>& unfolding, std::uint64_t patience_ns,
                    const std::function<void(std::uint64_t done)>& progress,
                    const std::atomic<bool>& stop);

}  // namespace ramfold::daemon
