// SPDX-License-Identifier: GPL-2.0-or-later
// The way down for up to 16 neighbouring pages: own -> guard -> gate, proof -> private copies ->
// (the caller puts the bytes into the store) -> gate -> commit -> word -> punch -> release, wake
// losers.
// What was not committed is undone by the destructor: its guard lifted, its owner let go.
// Threads: one thread a run; a chunk of a VM is worked on by one thread at a time, which is what
// makes a stolen and re-owned page impossible to confuse. Fault threads may take any page away
// until its commit.
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
  unsigned pages = 0;   // left guest RAM
  unsigned stolen = 0;  // a fault took them away
  bool gate = true;     // false: the gate closed, nothing was punched
};

// hold: pages are guarded and left so, to wait for what may be in flight (guest/grace.hpp).
enum class Purpose : std::uint8_t { fold, hold };

class LeavingRun {
 public:
  // Owns the pages of `fresh` (to be guarded and read) and `again` (clean: guarded since they came
  // back) that nobody else owns and whose word still fits, guards `fresh`, and reads into `copies`
  // those of them that `proof` calls quiet. The others stay for a later pass.
  // In the grace mode `fold` takes only those of `fresh` that have waited under their guard, `hold`
  // does nothing in any other.
  LeavingRun(guest::Vm& vm, guest::QuietProof& proof, const scan::Window& window, Mask fresh,
             Mask again, Copies& copies, Purpose purpose = Purpose::fold) noexcept;
  ~LeavingRun();
  LeavingRun(const LeavingRun&) = delete;
  LeavingRun& operator=(const LeavingRun&) = delete;

  // Pages that are guarded, copied and still ours as far as is known.
  Mask copied() const noexcept { return copied_; }
  guest::Word word(unsigned i) const noexcept { return words_[i]; }
  PageIndex page(unsigned i) const noexcept { return PageIndex{window_.pages.first.value + i}; }
  // The bytes of page i are safe in the store.
  void stage(unsigned i, store::Ref ref) noexcept;
  // Page i does not leave; its word becomes `observed` with these hash bits.
  void keep_observed(unsigned i, std::uint32_t hash_bits) noexcept;
  // Page i waits under its guard.
  void keep_guarded(unsigned i) noexcept;
  // The gate once more, then every staged and clean page.
  Committed commit() noexcept;

 private:
  void own(Mask wanted, bool fresh) noexcept;
  bool fits(guest::Word word, PageIndex p, bool fresh) const noexcept;
  void guard() noexcept;
  void verify_present() noexcept;
  void ask(guest::QuietProof& proof) noexcept;
  void read(Copies& copies) noexcept;
  void undo(Mask pages) noexcept;             // lifts and lets go
  void lift_and_release(Mask held) noexcept;  // REQUIRES: owned as `punching`

  guest::Vm& vm_;
  scan::Window window_;
  guest::Gate::Pass pass_;
  Purpose purpose_;
  Mask fresh_ = 0;    // owned, to be read
  Mask again_ = 0;    // owned, clean
  Mask guarded_ = 0;  // by this run
  Mask copied_ = 0;
  Mask staged_ = 0;
  std::array<guest::Word, scan::kWindowPages> words_{};
  std::array<store::Ref, scan::kWindowPages> refs_;
};

}  // namespace ramfold::fold
