// SPDX-License-Identifier: GPL-2.0-or-later
// The proof that the gate asks for between the guard of a run and its read (docs/design.md, The
// gate): which of its pages are quiet, and which are resident.
//
// A page is quiet when no device write to it is in flight. A write that pinned the page before the
// guard would land in a frame that the punch has dropped. Before the guard the answer proves
// nothing, because a new write can pin the page right after it. After the read the answer comes too
// late, because a write that ended in between left an old copy.
//
// QEMU's page table does not tell whether a page without an entry is resident: a forgotten page has
// no entry, a hole has none either, and a guard leaves the same marker in both places (D4, D11).
// Threads: one proof a worker.
#pragma once

#include <cstdint>

#include "base/types.hpp"
#include "guest/vm.hpp"

namespace ramfold::guest {

// Bit i stands for page i of a run.
using PageMask = std::uint64_t;
inline constexpr PageCount kProofPagesMax{64};

// REQUIRES: at most kProofPagesMax.
constexpr PageMask all_pages(PageCount n) noexcept {
  return n.value == 0 ? 0 : ~PageMask{0} >> (kProofPagesMax.value - n.value);
}

struct ProofAnswer {
  PageMask quiet = 0;  // all of them are resident, too
  // The RAM file has the page in memory, in a small folio.
  PageMask resident = 0;
};

class QuietProof {
 public:
  QuietProof() = default;
  QuietProof(const QuietProof&) = delete;
  QuietProof& operator=(const QuietProof&) = delete;
  virtual ~QuietProof() = default;

  // What is known of the pages of the run. `leaving`: those that leave only when they are quiet.
  // The reason why one of these is not quiet is counted in the VM. What holds it may let go, so it
  // is asked about again in a later pass. REQUIRES: one block, at most kProofPagesMax pages; all of
  // `leaving` are guarded, and the caller took ownership before it guarded them.
  virtual ProofAnswer ask(Vm& vm, PageRun run, PageMask leaving) noexcept = 0;
};

}  // namespace ramfold::guest
