// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/pin_proof.hpp"

#include <array>

#include "guest/not_quiet.hpp"

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
    const bool is_quiet = asked[i] == PinAnswer::quiet;
    if (is_quiet) known.quiet |= page;
    if (is_quiet || asked[i] == PinAnswer::busy || asked[i] == PinAnswer::mapped_more)
      known.resident |= page;
    if (!is_quiet && (leaving & page) != 0) count_not_quiet(counters, asked[i]);
  }
  return known;
}

}  // namespace ramfold::guest
