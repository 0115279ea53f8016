// SPDX-License-Identifier: GPL-2.0-or-later
// The proof that the gate asks for between the guard of a run and its read (docs/design.md, The
// gate): which of its pages are quiet. A page is quiet when no device write to it is in flight. A
// write that pinned the page before the guard would land in a frame that the punch has dropped.
// Before the guard the answer proves nothing, because a new write can pin the page right after it.
// After the read the answer comes too late, because a write that ended in between left an old copy.
// Threads: one proof a worker.
#pragma once

#include <cstdint>

#include "base/types.hpp"
#include "guest/vm.hpp"

namespace ramfold::guest {

// Bit i stands for page i of a run.
using PageMask = std::uint16_t;
inline constexpr PageCount kProofPagesMax{16};

// REQUIRES: at most kProofPagesMax.
constexpr PageMask all_pages(PageCount n) noexcept {
  return static_cast<PageMask>((1u << n.value) - 1u);
}

class QuietProof {
 public:
  QuietProof() = default;
  QuietProof(const QuietProof&) = delete;
  QuietProof& operator=(const QuietProof&) = delete;
  virtual ~QuietProof() = default;

  // The quiet pages of the run. What holds the others may let go, so they are asked about again in
  // a later pass. REQUIRES: one block, at most kProofPagesMax pages; all are guarded, and the
  // caller took ownership before it guarded them.
  virtual PageMask quiet(Vm& vm, PageRun run) noexcept = 0;
};

}  // namespace ramfold::guest
