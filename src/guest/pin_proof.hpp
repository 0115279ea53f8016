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

#include "guest/quiet_proof.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::guest {

class PinProof final : public QuietProof {
 public:
  // `test` outlives this.
  explicit PinProof(const sys::PinTest& test) noexcept : test_(test) {}
  ProofAnswer ask(Vm& vm, PageRun run, PageMask leaving) noexcept override;

 private:
  const sys::PinTest& test_;
};
static_assert(kProofPagesMax <= sys::PinTest::kPagesMax);

}  // namespace ramfold::guest
