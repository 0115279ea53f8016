// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/pin_proof.hpp"

#include <array>

namespace ramfold::guest {

using sys::PinAnswer;

PageMask PinProof::quiet(Vm& vm, PageRun run) noexcept {
  const Block& block = vm.block_of(run.first);
  const std::uint64_t first =
      (block.offset.value >> kPageShift) + run.first.value - block.first.value;
  std::array<PinAnswer, kProofPagesMax.value> answers{};
  const std::span<PinAnswer> asked = std::span(answers).first(run.count.value);
  VmCounters& counters = vm.counters();
  if (!test_.ask(vm.files().rams[block.ram], first, asked)) counters.errors.add();
  PageMask quiet = 0;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    switch (asked[i]) {
      case PinAnswer::quiet: quiet |= static_cast<PageMask>(1u << i); break;
      case PinAnswer::busy: counters.not_quiet_busy.add(); break;
      case PinAnswer::large: counters.not_quiet_large.add(); break;
      case PinAnswer::mapped_more: counters.not_quiet_mapped_more.add(); break;
      case PinAnswer::unanswered:
      case PinAnswer::hole:
      case PinAnswer::swapped:
      case PinAnswer::again: counters.not_quiet_other.add(); break;
    }
  }
  return quiet;
}

}  // namespace ramfold::guest
