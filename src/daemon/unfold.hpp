// SPDX-License-Identifier: GPL-2.0-or-later
// Brings everything of a VM back and lets go of it: detach, off, and the answer to another consumer (D13).
// Threads: one call a VM at a time (AttachedVm::unfolding says so).
#pragma once

#include <atomic>
#include <functional>

#include "base/result.hpp"
#include "control/views.hpp"
#include "daemon/attached_vm.hpp"

namespace ramfold::daemon {

// What it would take. `pages` counts those whose bytes come back; zeros need none until they are touched.
control::UnfoldPlan plan_unfold(const AttachedVm& vm, ByteCount available);

// Complete on success: nothing is folded, no page is guarded, nothing is registered; or the VM has ended. On
// an Error (ENOMEM, EIO a content cannot be read back, ECANCELED `stop` was set) the VM stays as it is and
// served; the gate stays closed while `unfolding` is set, which is the caller's to clear.
// REQUIRES: vm.unfolding was set by the caller.
Status unfold(AttachedVm& vm, const std::function<void(std::uint64_t done)>& progress,
              const std::atomic<bool>& stop);

}  // namespace ramfold::daemon
