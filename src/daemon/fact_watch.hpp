// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the facts of every VM again and again, and opens or closes its gate. Another consumer of RAM is
// handed on to be unfolded for.
// Threads: check() from the housekeeping thread only.
#pragma once

#include <functional>
#include <memory>

#include "daemon/attached_vm.hpp"
#include "guest/facts.hpp"

namespace ramfold::daemon {

class FactWatch {
 public:
  FactWatch(VmSet& vms, const guest::ProcFacts& facts, const guest::Custody& custody) noexcept
      : vms_(vms), facts_(facts), custody_(custody) {}

  // `must_unfold` is called for a VM whose RAM somebody else uses.
  void check(const std::function<void(const VmHandle&)>& must_unfold);
  // One VM, at once and in full: after its agent got ready, and on its hints.
  void check_one(const VmHandle& vm, guest::Depth depth, const std::function<void(const VmHandle&)>& must_unfold);

 private:
  // The verdict of a look at `sequence`.
  static void open_gate(AttachedVm& vm, guest::Gate::Mode mode, std::uint32_t sequence);

  VmSet& vms_;
  const guest::ProcFacts& facts_;
  const guest::Custody custody_;
  guest::OtherUses others_;
  bool others_known_ = false;
  std::uint64_t others_ns_ = 0;
  std::uint64_t full_ns_ = 0;
};

}  // namespace ramfold::daemon
