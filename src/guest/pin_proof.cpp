// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/pin_proof.hpp"

#include <algorithm>

#include "guest/not_quiet.hpp"

namespace ramfold::guest {

using sys::PinAnswer;

namespace {

// In a small folio: the pages of a large one are left alone.
bool is_resident(PinAnswer answer) noexcept {
  return answer == PinAnswer::quiet || answer == PinAnswer::busy ||
         answer == PinAnswer::mapped_more;
}

}  // namespace

std::span<const PinAnswer> PinProof::ask_kernel(Vm& vm, PageRun run, Answers& answers) noexcept {
  const Block& block = vm.block_of(run.first);
  const std::uint64_t first =
      (block.offset.value >> kPageShift) + run.first.value - block.first.value;
  const std::span<PinAnswer> asked = std::span(answers).first(run.count.value);
  if (!test_.ask(vm.files().rams[block.ram], first, asked)) vm.counters().errors.add();
  return asked;
}

ProofAnswer PinProof::ask(Vm& vm, PageRun run, PageMask leaving) noexcept {
  Answers answers{};
  const std::span<const PinAnswer> asked = ask_kernel(vm, run, answers);
  ProofAnswer known;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto page = PageMask{1} << i;
    const bool is_quiet = asked[i] == PinAnswer::quiet;
    if (is_quiet) known.quiet |= page;
    if (is_resident(asked[i])) known.resident |= page;
    if (!is_quiet && (leaving & page) != 0) count_not_quiet(vm.counters(), asked[i]);
  }
  return known;
}

HeldCount PinProof::count_held(Vm& vm, PageRun run) noexcept {
  Answers answers{};
  const std::span<const PinAnswer> asked = ask_kernel(vm, run, answers);
  return {static_cast<unsigned>(std::ranges::count_if(asked, is_resident)),
          static_cast<unsigned>(std::ranges::count(asked, PinAnswer::busy))};
}

}  // namespace ramfold::guest
