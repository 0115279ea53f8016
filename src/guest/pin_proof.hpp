// SPDX-License-Identifier: GPL-2.0-or-later
// The proof of the gate `pinned`: the kernel is asked who holds the frames (sys/pin_test.hpp). It
// holds for every device. A write in flight pinned its page before the guard, and a pin is a
// reference. A write that comes later must fault before it can pin a guarded page, and the guard
// turns that into an event. So references of writers only go, and a page that is seen quiet once
// has no write in flight. docs/design.md, The gate, names the kernel's sources.
//
// It does not see who maps or reads the RAM file without holding its pages: D13.
// Threads: one a worker; all use one PinTest.
#pragma once

#include <array>
#include <span>

#include "guest/quiet_proof.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::guest {

struct HeldCount {
  unsigned resident = 0;
  unsigned busy = 0;  // of them, those that something holds
};

class PinProof final : public QuietProof {
 public:
  // `test` outlives this.
  explicit PinProof(const sys::PinTest& test) noexcept : test_(test) {}
  ProofAnswer ask(Vm& vm, PageRun run, PageMask leaving) noexcept override;
  // For the operator alone: of pages without a guard the answer proves nothing. REQUIRES: one
  // block, at most kProofPagesMax pages.
  HeldCount count_held(Vm& vm, PageRun run) noexcept;

 private:
  using Answers = std::array<sys::PinAnswer, kProofPagesMax.value>;
  // Into the first run.count of `answers`.
  std::span<const sys::PinAnswer> ask_kernel(Vm& vm, PageRun run, Answers& answers) noexcept;

  const sys::PinTest& test_;
};
static_assert(kProofPagesMax <= sys::PinTest::kPagesMax);

}  // namespace ramfold::guest
