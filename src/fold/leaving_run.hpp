// SPDX-License-Identifier: GPL-2.0-or-later
// Folds up to 64 neighbouring pages. The steps: own -> guard -> see that all are guarded -> check
// the gate -> ask the proof -> copy -> (the caller puts the bytes into the store) -> check the gate
// -> commit -> word -> punch -> release, and wake waiting faults. The destructor undoes every page
// that was not committed: it lifts the guard and releases the page.
// Threads: one thread per run. Until its commit, a fault thread may take a page away from the run.
// Only one thread at a time works on a chunk of a VM, so no other run can own a page that was taken
// away.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"
#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"
#include "scan/plan.hpp"
#include "store/content_source.hpp"

namespace ramfold::fold {

using Mask = guest::PageMask;
using Copies = std::array<PageCopy, scan::kWindowPages>;
static_assert(scan::kWindowPages <= guest::kProofPagesMax.value);

struct Committed {
  unsigned pages = 0;   // pages that left guest RAM
  unsigned stolen = 0;  // pages that faults took away
  bool gate = true;     // false: the gate closed, nothing was punched
};

class LeavingRun {
 public:
  // Owns pages that nobody else owns and whose word still fits: of `fresh`, and of `again` (clean
  // pages, guarded since they came back, and folded pages whose punch failed). Guards the pages of
  // `fresh`, and reads those that `proof` calls quiet into `copies`; the others stay for a later
  // pass.
  LeavingRun(guest::Vm& vm, guest::QuietProof& proof, const scan::Window& window, Mask fresh,
             Mask again, Copies& copies) noexcept;
  ~LeavingRun();
  LeavingRun(const LeavingRun&) = delete;
  LeavingRun& operator=(const LeavingRun&) = delete;

  // The pages of `fresh` that were guarded and copied. A fault may have taken some of them away
  // since.
  Mask copied() const noexcept { return copied_; }
  guest::Word word(unsigned i) const noexcept { return words_[i]; }
  PageIndex page(unsigned i) const noexcept { return PageIndex{window_.pages.first.value + i}; }
  // Page i may leave: `ref` is a reference to its bytes in the store.
  void stage(unsigned i, store::Ref ref) noexcept;
  // Page i does not leave, and its guard is lifted. If its word is `observed`, it gets these hash
  // bits.
  void keep_observed(unsigned i, std::uint32_t hash_bits) noexcept;
  // Checks the gate again, then folds every staged page and every page of `again`.
  Committed commit() noexcept;

 private:
  void own(Mask wanted, bool fresh) noexcept;
  void guard() noexcept;
  void verify_guarded() noexcept;
  void ask(guest::QuietProof& proof) noexcept;
  void read(Copies& copies) noexcept;
  void undo(Mask pages) noexcept;             // lifts their guards and releases them
  void lift_and_release(Mask held) noexcept;  // REQUIRES: owned as `punching`

  guest::Vm& vm_;
  scan::Window window_;
  guest::Gate::Pass pass_;
  Mask fresh_ = 0;    // owned, to be read
  Mask again_ = 0;    // owned, clean
  Mask guarded_ = 0;  // guarded by this run
  Mask mapped_ = 0;   // in QEMU's page table after the guard
  Mask copied_ = 0;
  Mask staged_ = 0;
  std::array<guest::Word, scan::kWindowPages> words_{};
  std::array<store::Ref, scan::kWindowPages> refs_;
};

}  // namespace ramfold::fold
