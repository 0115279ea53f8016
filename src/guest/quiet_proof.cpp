// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/quiet_proof.hpp"

#include "base/clock.hpp"

namespace ramfold::guest {

PageMask FactsProof::quiet(Vm& vm, PageRun run) noexcept {
  // While a run is under way the mode is the run's, or the gate is closed: runs are drained between
  // two modes.
  if (vm.gate().mode() != Gate::Mode::grace) return all_pages(run.count);
  const std::uint64_t now = monotonic_ns();
  PageMask waited = 0;
  for (std::uint64_t i = 0; i < run.count.value; ++i) {
    if (!vm.grace().over(run.first + PageCount{i}, now)) continue;
    waited |= static_cast<PageMask>(1u << i);
  }
  return waited;
}

}  // namespace ramfold::guest
