// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/pin_proof.hpp"

#include <array>

namespace ramfold::guest {

using sys::PinAnswer;

ProofAnswer PinProof::ask(Vm& vm, PageRun run, PageMask leaving) noexcept {
  const Block& block = vm.block_of(run.first);
  const std::uint64_t first =
      (block.offset.value >> kPageShift) + run.first.value - block.first.value;
  std::array<PinAnswer, kProofPagesMax.value> answers{};
  const std::span<PinAnswer> asked = std::span(answers).first(run.count.value);
  VmCounters& counters = vm.counters();
  if (!test_.ask(vm.files().rams[block.ram], first, asked)) counters.errors.add();
  ProofAnswer known;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto page = PageMask{1} << i;
    const bool counts = (leaving & page) != 0;
    switch (asked[i]) {
      case PinAnswer::quiet:
        known.quiet |= page;
        known.resident |= page;
        break;
      case PinAnswer::busy:
        known.resident |= page;
        if (counts) counters.not_quiet_busy.add();
        break;
      case PinAnswer::mapped_more:
        known.resident |= page;
        if (counts) counters.not_quiet_mapped_more.add();
        break;
      case PinAnswer::large:
        if (counts) counters.not_quiet_large.add();
        break;
      case PinAnswer::unanswered:
      case PinAnswer::hole:
      case PinAnswer::swapped:
      case PinAnswer::again:
        if (counts) counters.not_quiet_other.add();
        break;
    }
  }
  return known;
}

}  // namespace ramfold::guest
