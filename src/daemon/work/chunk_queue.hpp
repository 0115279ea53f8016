// SPDX-License-Identifier: GPL-2.0-or-later
// The chunks that are to be scanned. scan/turns.hpp chooses the VM whose chunk comes next. An owner
// is a user with its subordinate ids. scan/rests.hpp tells which chunks a pass leaves out.
// Threads: any; ask_of() before the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/published.hpp"
#include "base/thread_annotations.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/work/sources.hpp"
#include "policy/targets.hpp"
#include "scan/plan.hpp"
#include "scan/turns.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::daemon {

// A chunk that a worker has taken. Nobody else works on it until it is given back.
struct ChunkClaim {
  VmHandle vm;
  scan::Turns::Member turn;
  std::size_t chunk = 0;
  scan::ColdRule rule;
  const scan::ReferencedSource* source = nullptr;  // null: none is asked
  scan::History* history = nullptr;                // null as well
  scan::Sampling sampling;
  bool folds = false;   // ScanCursor::Terms
  bool counts = false;  // AttachedVm::counts_held(): nothing else is done with the pages
};

class ChunkQueue {
 public:
  // REQUIRES: all outlive this.
  ChunkQueue(VmSet& vms, HostState& host, const Published<policy::WorkTargets>& targets)
      : vms_(vms), host_(host), targets_(targets) {}

  // `sources` outlives this. REQUIRES: called at most once, before the first claim.
  void ask_of(const Sources& sources) noexcept { sources_ = &sources; }
  // Takes a chunk of the VM whose turn it is, among VMs whose pass runs or is due. nullopt: no VM
  // has one. A pass runs while the VM may be folded, or counts_held().
  std::optional<ChunkClaim> claim() EXCLUDES(mutex_);
  // The VM and its owner have had the time, in nanoseconds.
  void charge(const scan::Turns::Member& turn, std::uint64_t ns) EXCLUDES(mutex_);
  // After an empty chunk: skips the chunks in a hole of the RAM file, and frees their words.
  void skip_holes(const ChunkClaim& claim);
  // `met`: in the chunk. `busy`: its pages that something holds, where pages are only counted.
  void give_back(const ChunkClaim& claim, const scan::Met& met, std::uint64_t busy);

 private:
  struct Turn {
    std::weak_ptr<AttachedVm> vm;
    uid_t owner = 0;
  };
  std::optional<ChunkClaim> claim_of(const VmHandle& vm) REQUIRES(mutex_);
  void meet_new_vms() REQUIRES(mutex_);
  // The least time from the beginning of a pass to that of the next one.
  std::uint64_t least_ns(const ScanCursor& cursor, bool counts) const REQUIRES(cursor.mutex);
  void begin_pass(AttachedVm& vm, ScanCursor& cursor, std::uint64_t now_ns, bool counts)
      REQUIRES(cursor.mutex);
  void choose_terms(AttachedVm& vm, ScanCursor& cursor) REQUIRES(cursor.mutex);
  // The pass ends when every chunk was taken and given back.
  void end_pass_if_over(AttachedVm& vm, ScanCursor& cursor) REQUIRES(cursor.mutex);
  // Moves the cursor over chunks that rest, up to `end`.
  void skip_resting(AttachedVm& vm, ScanCursor& cursor, std::size_t end) REQUIRES(cursor.mutex);
  // The most passes from a look that has met this in the chunk to the next one.
  unsigned rest_of(const AttachedVm& vm, std::size_t chunk, bool folds,
                   const scan::Met& met) const noexcept;
  // Chooses for a pass the source, and the share of the VM's RAM that it is asked about.
  // `elapsed_ns`: since the last pass began.
  void prepare_questions(const AttachedVm& vm, ScanCursor& cursor, std::uint64_t elapsed_ns)
      REQUIRES(cursor.mutex);

  VmSet& vms_;
  HostState& host_;
  const Published<policy::WorkTargets>& targets_;
  const Sources* sources_ = nullptr;
  Mutex mutex_ ACQUIRED_BEFORE(&ScanCursor::mutex){"ChunkQueue"};
  scan::Turns turns_ GUARDED_BY(mutex_);
  std::map<VmId, Turn> met_ GUARDED_BY(mutex_);
  std::uint64_t met_changes_ GUARDED_BY(mutex_) = 0;  // VmSet::changes() when `met_` was made
  sys::SubordinateIds ids_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
