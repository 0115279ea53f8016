// SPDX-License-Identifier: GPL-2.0-or-later
// Chooses the pages of a chunk to work on: sight (which are there) -> clock (what is done with
// each) -> windows (neighbours together).
// Threads: a Planner per thread; a chunk is planned and folded by one worker at a time.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "scan/clock.hpp"
#include "scan/referenced.hpp"
#include "scan/sight.hpp"
#include "scan/windows.hpp"

namespace ramfold::scan {

// How many pages of a chunk the plan met.
struct Met {
  std::uint64_t present = 0;
  std::uint64_t held = 0;  // of `present`: held back by their back-off
  // Of `present`: those that the next pass has to look at, and those that are to leave. The others
  // leave after `warm_for` passes, if nothing happens to them.
  std::uint64_t active = 0;
  std::uint64_t leaving = 0;
  unsigned warm_for = guest::Word::kAgeMax;
  Sampling::Asked asked;  // plan() knows how many were touched; who asks fills in the rest
};

class Planner {
 public:
  // `proof` outlives this.
  explicit Planner(guest::QuietProof& proof) noexcept : sight_(proof) {}
  // Plans the chunk (kChunkPages pages of the linear index) into `into`; returns how many windows
  // have work. `asking`: null where nobody asks which pages are touched. Errors: ESRCH the VM is
  // gone.
  Result<std::size_t> plan(guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                           std::span<Window, kChunkWindows> into, const Asking* asking = nullptr);
  // Of the last plan().
  Met met() const noexcept { return met_; }
  std::span<const SeenPage> seen() const noexcept { return seen_; }

 private:
  Sight sight_;
  std::span<const SeenPage> seen_;
  Met met_;
};

}  // namespace ramfold::scan
