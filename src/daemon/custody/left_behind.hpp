// SPDX-License-Identifier: GPL-2.0-or-later
// VMs that an earlier daemon folded and that this daemon cannot serve, or not yet: the rest of that
// daemon may still change their memory, or their record cannot be read. They stay with the keeper,
// and their contents stay in the store. Their faults wait; they never read zeros.
// Threads: any; tend() by one.
#pragma once

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
    std::string group;  // empty: not known
    bool held = false;  // it can be served after the rest of the earlier daemon has ended
  };

  // True: the rest of an earlier daemon has not ended, and may still change this VM's memory.
  bool is_held(const guest::VmRecord& record) const;
  void add(UnusableVm vm);
  void add_held(KeptVm kept);
  // True: the VM of this process will be taken over later with its old state, so it must not be
  // attached anew.
  bool has(pid_t pid, std::uint64_t start_ticks) const;
  std::vector<View> views() const;

  // Adopts a VM and adds it to the fleet.
  using Adopt = std::function<Result<VmHandle>(KeptVm kept)>;
  // Lets go of VMs that have ended, and adopts those that can be served now. True: fewer are left.
  bool tend(Keeping& keeping, const Adopt& adopt);

 private:
  bool adopt_late(VmId id, const Adopt& adopt) EXCLUDES(mutex_);

  const sys::Procfs& procfs_;
  mutable Mutex mutex_{"LeftBehind"};
  std::vector<UnusableVm> vms_ GUARDED_BY(mutex_);
};

// This daemon must end and cannot. Marks the VMs on whose memory a thread of this process works, in
// their records: no daemon may serve them until that thread has ended.
void mark_left_behind(const std::vector<VmHandle>& vms, const sys::Procfs& procfs);

}  // namespace ramfold::daemon
