// SPDX-License-Identifier: GPL-2.0-or-later
// What each VM makes the daemon keep in memory, and whether that is too much: of one VM by its
// quota (host.vm_kept_factor_max), of all VMs of one owner by the owner's share of the store and of
// the memory for page tables. judge_keeps() is pure; KeepsJudge reads the VMs and writes
// AttachedVm::keeps.
// Threads: one at a time.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "control/views.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "store/contents.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::daemon {

// What is known of one VM.
struct KeepsOf {
  uid_t account = 0;
  GroupId group{};
  std::uint64_t naming = 0;  // pages that name a content with bytes
  ByteCount page_table;      // backed by memory, as the bitmap
  ByteCount bitmap;
  ByteCount ram;
};
struct KeepsVerdict {
  ByteCount stored;  // of the store's bytes those of its group's pages, by the number of its own
  ByteCount limit;   // of the stored bytes and the tables together
  TooMuch too_much = TooMuch::nothing;
};
struct KeepsLimits {
  double vm_kept_factor_max = 1;  // of its RAM; the tables for all of it come on top
  ByteCount host_ram;
};
// Page tables and bitmaps of all VMs may take one part in so many of the host's RAM: that is room
// for the tables of 60 times the host's RAM.
inline constexpr std::uint64_t kTablesOneIn = 8;
std::vector<KeepsVerdict> judge_keeps(std::span<const KeepsOf> vms, const store::Stats& stats,
                                      const KeepsLimits& limits);

class KeepsJudge {
 public:
  void judge(std::span<const VmHandle> vms, const store::Stats& stats, const KeepsLimits& limits);

 private:
  sys::SubordinateIds ids_;
};

// For people; nothing when it does not keep too much.
std::optional<control::Reason> why_keeps_too_much(const AttachedVm& vm);

}  // namespace ramfold::daemon
