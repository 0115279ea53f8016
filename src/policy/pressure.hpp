// SPDX-License-Identifier: GPL-2.0-or-later
// Does the host's memory want folding, and does it allow it? Pure functions of a sample.
//
//   have  = available + swap that is free on disks (swap on zram is RAM itself and does not count)
//   limit = have - reserve + unbacked_max
//   the promise is kept while what bringing everything back would take fits into limit
// Threads: pure functions, values.
#pragma once

#include "policy/targets.hpp"

namespace ramfold::policy {

// The host's memory at one moment.
struct MemorySample {
  ByteCount available;       // MemAvailable
  ByteCount disk_swap_free;  // free swap that is not on zram
};

struct MemoryVerdict {
  bool promise_kept = false;  // if everything came back, the memory would suffice
  bool plentiful = false;     // nothing needs folding now (never under when = "eager")
  bool may_fold() const noexcept { return promise_kept && !plentiful; }
  friend bool operator==(const MemoryVerdict&, const MemoryVerdict&) = default;
};

// `needed_if_all_back`: what bringing every folded page back would take, less what that frees.
MemoryVerdict judge(const HostTargets& targets, const MemorySample& sample,
                    ByteCount needed_if_all_back);

// May bringing pages back take the reserve too?
enum class Reserve : bool { left_alone, used };
// Pages that come back may be swapped as any others, so free swap counts.
ByteCount room_for_unfolding(const HostTargets& targets, const MemorySample& sample,
                             Reserve reserve);

}  // namespace ramfold::policy
