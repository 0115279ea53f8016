// SPDX-License-Identifier: GPL-2.0-or-later
// Asks which pages of a chunk the guest touches: has the agent forget them (MADV_DONTNEED). Their
// entries in QEMU's page table go; pages and guards stay. A page that is in the page table at the
// next look was touched, which has cost the guest a fault that the kernel answers alone.
// Threads: any; ask() waits a moment for the agent.
#pragma once

#include "scan/referenced.hpp"

namespace ramfold::scan {

class ForgetSource final : public ReferencedSource {
 public:
  std::string_view name() const noexcept override { return "forget"; }
  std::uint64_t touch_ns() const noexcept override { return 1'500; }  // measured
  bool needs_agent() const noexcept override { return true; }
  TouchedPages touched(const guest::Vm& vm, std::span<const SeenPage> seen,
                       const History& history) const override;
  // REQUIRES: no page of the VM is lost, because forgetting would remove its mark (D17).
  bool ask(const guest::Vm& vm, guest::AgentPort* agent, const Question& question,
           std::span<const SeenPage> seen, History& history) const override;
};

}  // namespace ramfold::scan
