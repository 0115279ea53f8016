// SPDX-License-Identifier: GPL-2.0-or-later
// VMs that a predecessor folded and that this daemon cannot serve, or not yet: what is left of that
// predecessor may still change their memory, or their record cannot be read. They stay with the
// keeper, and what their pages name stays in the store. Their faults wait; they never read zeros.
// Threads: any; wait_until_none() by one.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/custody/predecessor.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

class LeftBehind {
 public:
  explicit LeftBehind(const sys::Procfs& procfs) noexcept : procfs_(procfs) {}

  struct View {
    VmId id;
    std::string why;
    bool held = false;  // it can be served when what is left of the predecessor has ended
  };

  // A call of a daemon that has not ended may still change this VM's memory.
  bool is_held(const guest::VmRecord& record) const;
  void add(UnusableVm vm);
  void add_held(KeptVm kept);
  // It will be served as the VM it was: it must not be attached anew.
  bool has(pid_t pid, std::uint64_t start_ticks) const;
  std::vector<View> views() const;

  // Adopts a VM that was held, and makes it one of the fleet.
  using Adopt = std::function<Result<VmHandle>(KeptVm kept)>;
  // Waits until each has ended or was adopted; false: `stopping` was set.
  bool wait_until_none(Keeping& keeping, const Adopt& adopt, const std::atomic<bool>& stopping);

 private:
  void adopt_late(VmId id, const Adopt& adopt) EXCLUDES(mutex_);

  const sys::Procfs& procfs_;
  mutable Mutex mutex_{"LeftBehind"};
  std::vector<UnusableVm> vms_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
