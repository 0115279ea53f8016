// SPDX-License-Identifier: GPL-2.0-or-later
// The proof for pages that map the pool: whether a device write to a page's private copy is in
// flight (D1). The argument is that of guest/pin_proof.hpp. A write pinned the copy before the
// guard, and a pin is a reference. A later one must fault first: a copy that is guarded is not
// writable, and where there is no copy a pin for writing makes one by a fault. So references of
// writers only go. A page without a copy is quiet: no write of a device ever went through it.
//
// A copy in swap may still be in its frame, with a holder. It is read, which brings it back, and
// asked about again.
// Threads: one a worker; all use one PrivatePins.
#pragma once

#include "guest/quiet_proof.hpp"
#include "sys/private_pins.hpp"

namespace ramfold::guest {

class PrivateProof final : public QuietProof {
 public:
  // `pins` outlives this.
  explicit PrivateProof(const sys::PrivatePins& pins) noexcept : pins_(pins) {}
  // `resident` is `quiet`: each of these pages is behind its address.
  ProofAnswer ask(Vm& vm, PageRun run, PageMask leaving) noexcept override;

 private:
  const sys::PrivatePins& pins_;
};
static_assert(kProofPagesMax <= sys::PrivatePins::kPagesMax);

}  // namespace ramfold::guest
