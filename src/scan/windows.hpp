// SPDX-License-Identifier: GPL-2.0-or-later
// Windows: pages with a verdict, put together so that neighbours are worked on at once, and the
// chunks that a pass need not look at.
// Threads: values.
#pragma once

#include <cstdint>
#include <span>

#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"
#include "scan/clock.hpp"

namespace ramfold::scan {

inline constexpr std::size_t kWindowPages = 64;  // 256 KiB: larger runs leave the cache (L2)
inline constexpr std::size_t kChunkWindows =
    guest::kChunkPages.value / kWindowPages + RF_BLOCKS_MAX;  // a block's end may split a window

// What to do with the pages of one window; bit i is page first + i.
struct Window {
  PageRun pages{};              // at most kWindowPages, within one block
  guest::PageMask observe = 0;  // read, remember the hash
  guest::PageMask fold = 0;     // guard, read; fold when the hash is still the same
  guest::PageMask again = 0;    // clean: fold without reading
  guest::PageMask age = 0;      // unchanged, still warm: count one more pass
  guest::PageMask map = 0;      // stays, and may map the pool; beside any other work
  guest::PageMask leaving() const noexcept { return fold | again; }
  // Of the pages that are to leave, only the first `count` still leave.
  void limit_leaving(std::uint64_t count) noexcept;
};

// The pages around p: an aligned block of `size` pages, as far as it is within `block`.
inline PageRun window_of(const guest::Block& block, PageIndex p,
                         std::uint64_t size = kWindowPages) noexcept {
  const std::uint64_t start = p.value / size * size;
  const std::uint64_t first = std::max(start, block.first.value);
  return {PageIndex{first}, PageCount{std::min(start + size, block.end().value) - first}};
}

// Fills `into`, in the order of pages.
class WindowList {
 public:
  explicit WindowList(std::span<Window, kChunkWindows> into) noexcept : into_(into) {}
  // REQUIRES: pages come in order; all are of one chunk.
  void put(const guest::Block& block, PageIndex p, Verdict verdict, bool may_map = false) noexcept;
  std::size_t count() const noexcept { return used_; }

 private:
  std::span<Window, kChunkWindows> into_;
  std::size_t used_ = 0;
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
