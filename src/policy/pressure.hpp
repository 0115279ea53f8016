// SPDX-License-Identifier: GPL-2.0-or-later
// Does the host need folding, and does its memory allow it? Pure functions of a sample.
//
//   have         = available + free swap on disks     (swap on zram is RAM, and does not count)
//   limit        = have - reserve + unbacked_max
//   promise_kept = needed_if_all_back <= limit
//   short        = begins when available <= keep_available, or tasks stall for memory for at least
//                  10 % of the time; ends when available > 17/16 keep_available, and tasks stall
//                  for less than 1 %
//   may_fold     = promise_kept, and `when` is "eager" or memory is short
// Folding raises `available`, so that one threshold would make it start and stop all the time.
// Tasks stall where the kernel reclaims memory again and again, also when `available` looks good.
// Threads: pure functions, values.
#pragma once

#include "policy/targets.hpp"

namespace ramfold::policy {

// The host's memory at one moment.
struct MemorySample {
  ByteCount available;       // MemAvailable
  ByteCount disk_swap_free;  // free swap that is not on zram
  // Share of the last 10 s in which some task waited for memory (PSI); 0 where the kernel does not
  // tell.
  unsigned stalled_permille = 0;
};

// Where `short` begins and where it ends differ, so judge() needs the last answer.
enum class Memory : bool { enough, is_short };

// Does a VM that is folded then need folding now?
constexpr bool needs_folding(FoldWhen when, Memory memory) noexcept {
  return when == FoldWhen::eager || memory == Memory::is_short;
}

struct MemoryVerdict {
  bool promise_kept = false;  // memory would suffice if all pages came back
  Memory memory = Memory::enough;
  friend bool operator==(const MemoryVerdict&, const MemoryVerdict&) = default;
};

// `needed_if_all_back`: the memory that all folded pages would take, less the memory that the store
// would free.
MemoryVerdict judge(const HostTargets& targets, const MemorySample& sample,
                    ByteCount needed_if_all_back, Memory before = Memory::enough);

// May pages that come back use the reserve, too?
enum class Reserve : bool { left_alone, used };
// Memory for pages that come back: `have`, less the reserve unless it may be used. Free swap
// counts, because the host may swap such pages out.
ByteCount room_for_unfolding(const HostTargets& targets, const MemorySample& sample,
                             Reserve reserve);

}  // namespace ramfold::policy
