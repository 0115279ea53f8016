// SPDX-License-Identifier: GPL-2.0-or-later
// Chooses the pages to work on next. PAGEMAP_SCAN alone tells what a chunk of guest RAM holds: only
// pages in QEMU's page table are candidates. So a scan touches no hole, and brings back no page
// that the host has swapped out. ColdRule decides from a page's word what to do with the page.
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
  PageRun pages;          // at most kWindowPages, within one block
  std::uint16_t observe;  // read, remember the hash
  std::uint16_t fold;     // guard, read; fold when the hash is still the same
  std::uint16_t again;    // clean: fold without reading
  std::uint16_t age;      // clean, still warm: count one more pass
  std::uint16_t work() const noexcept { return observe | fold | again | age; }
};

enum class Verdict : std::uint8_t { leave, observe, fold, again, age };

// A page is cold when its bytes did not change over `need` passes:
//
//   need = min(passes * 2^backoff, passes_max, Word::kAgeMax)
//
// The word's `backoff` counts how often the page came back soon after it was folded.
struct ColdRule {
  unsigned passes = 2;
  unsigned passes_max = guest::Word::kAgeMax;  // == passes: no back-off. REQUIRES: >= passes

  // `guarded`: the page is present and write-protected.
  Verdict judge(guest::Word word, bool guarded) const noexcept;
  // The page is not folded, and its back-off asks for more than `passes` passes.
  bool holds_back(guest::Word word) const noexcept;

 private:
  unsigned need(guest::Word word) const noexcept;
};

// How many pages of a chunk the plan met.
struct Met {
  std::uint64_t present = 0;
  std::uint64_t held = 0;  // of `present`: held back by their back-off
};

class Planner {
 public:
  // Plans the chunk (kChunkPages pages of the linear index) into `into`; returns how many windows
  // have work. Errors: ESRCH the VM is gone.
  Result<std::size_t> plan(const guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                           std::span<Window, kChunkWindows> into);
  // Of the last plan().
  Met met() const noexcept { return met_; }

 private:
  std::array<sys::PageRegion, 256> regions_;
  Met met_;
};

// How many chunks the VM's RAM has.
std::size_t chunk_count(const guest::Vm& vm) noexcept;
// The first chunk at or after `chunk` of which a RAM file holds something, in memory or in swap;
// chunk_count() when none is left. The call takes the lock of the RAM file's inode, as a punch
// does. So it may wait for a punch by the VM's own process, and the fault path must not make it.
std::size_t next_backed_chunk(const guest::Vm& vm, std::size_t chunk) noexcept;
// The first chunk at or after `chunk` for which the page table holds words; chunk_count() when none
// is left.
std::size_t next_noted_chunk(const guest::Vm& vm, std::size_t chunk) noexcept;

}  // namespace ramfold::scan
