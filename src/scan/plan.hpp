// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages next. A chunk of guest RAM is looked at through PAGEMAP_SCAN alone: only what is
// present in QEMU's page table is a candidate, so a scan neither touches holes nor brings back what
// the host has swapped out. What to do with a page follows from its word; the clock will decide
// more (the seam is ColdRule).
// Threads: a Planner per thread; a chunk is planned and folded by one worker at a time.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "guest/vm.hpp"

namespace ramfold::scan {

inline constexpr std::size_t kWindowPages = 16;  // 64 KiB: larger runs leave the cache
inline constexpr std::size_t kChunkWindows =
    64 + RF_BLOCKS_MAX;  // a block's end may split a window

// What to do with the pages of one window; bit i is page first + i.
struct Window {
  PageRun pages;           // at most kWindowPages, within one block
  std::uint16_t observe;   // read and remember the hash
  std::uint16_t fold;      // guard, read; fold when the hash is still the same
  std::uint16_t again;     // clean: fold without reading
  std::uint16_t age;       // clean, still warm: count one more pass
  std::uint16_t hold = 0;  // cold, in the grace mode: guard and leave
  std::uint16_t work() const noexcept { return observe | fold | again | age | hold; }
};

enum class Verdict : std::uint8_t { leave, observe, fold, again, age, hold };

// Cold, for now: the bytes did not change over `passes` passes, doubled for every time the page
// came back soon after it was folded, up to `passes_max`.
struct ColdRule {
  unsigned passes = 2;
  unsigned passes_max = guest::Word::kAgeMax;  // `passes`: no back-off. REQUIRES: >= passes
  // The gate is open for grace: a cold page is guarded, and folded when it stayed so for the time.
  bool grace = false;

  // `guarded`: the page is present and write-protected.
  Verdict judge(guest::Word word, bool guarded) const noexcept;
  // The page, not folded now, must stay unchanged for more than `passes` passes.
  bool holds_back(guest::Word word) const noexcept;

 private:
  unsigned need(guest::Word word) const noexcept;
};

// Pages of a chunk, as the plan met them.
struct Met {
  std::uint64_t present = 0;
  std::uint64_t held = 0;  // present, and held back by the rule's back-off
};

class Planner {
 public:
  // Plans the chunk (kChunkPages pages of the linear index) into `into`; returns how many windows
  // have work. An Error with ESRCH: the VM is gone.
  Result<std::size_t> plan(const guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                           std::span<Window, kChunkWindows> into);
  // Of the last plan().
  Met met() const noexcept { return met_; }

 private:
  std::array<sys::PageRegion, 256> regions_;
  Met met_;
};

// Chunks of a VM.
std::size_t chunk_count(const guest::Vm& vm) noexcept;
// The first chunk at or after `chunk` of which a RAM file holds something, in memory or in swap;
// chunk_count() when none is left. One look at a RAM file takes its inode's lock, as a punch does:
// it may wait for a punch of the VM's own, and must not be made on the way up.
std::size_t next_backed_chunk(const guest::Vm& vm, std::size_t chunk) noexcept;
// The same of the page table: the first chunk of which it holds words.
std::size_t next_noted_chunk(const guest::Vm& vm, std::size_t chunk) noexcept;

}  // namespace ramfold::scan
