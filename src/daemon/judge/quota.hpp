// SPDX-License-Identifier: GPL-2.0-or-later
// The memory that the daemon keeps for each VM, against two limits: the VM's quota
// (host.vm_kept_factor_max), and the owner's share of the store and of the memory for page tables.
// judge_keeps() is pure; KeepsJudge reads the VMs and writes AttachedVm::keeps.
// Threads: one at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/types.hpp"
#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::store {
struct Stats;
}

namespace ramfold::daemon {

// Input: one VM.
struct KeepsOf {
  uid_t account = 0;
  GroupId group{};
  std::uint64_t naming = 0;  // pages that name a stored content (not zero)
  ByteCount page_table;      // allocated memory; `bitmap` too
  ByteCount bitmap;
  ByteCount notes;  // the daemon's own memory for it: see notes_max()
  ByteCount ram;
};
struct KeepsVerdict {
  ByteCount stored;  // = bytes stored for its group * its naming / naming of the whole group
  ByteCount limit;   // for stored bytes, page table, bitmap and notes together
  TooMuch too_much = TooMuch::nothing;
};
struct KeepsLimits {
  double vm_kept_factor_max = 1;  // of its RAM size; the size of its whole tables is added
  ByteCount host_ram;
};
// The most that is noted of this many pages: their owners, what was touched lately, which chunks
// rest, which slots of a pool pages map.
ByteCount notes_max(PageCount pages) noexcept;
std::vector<KeepsVerdict> judge_keeps(std::span<const KeepsOf> vms, const store::Stats& stats,
                                      const KeepsLimits& limits);

class KeepsJudge {
 public:
  void judge(std::span<const VmHandle> vms, const store::Stats& stats, const KeepsLimits& limits);

 private:
  sys::SubordinateIds ids_;
};

// The reason for the operator; nullopt if no limit is exceeded.
std::optional<control::Reason> why_keeps_too_much(const AttachedVm& vm);

}  // namespace ramfold::daemon
