// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/private_proof.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "guest/not_quiet.hpp"
#include "sys/remote_memory.hpp"

namespace ramfold::guest {
namespace {

using sys::PinAnswer;

// Reads the pages that may be in swap. Nothing stops a read there: the range is registered for
// guards alone.
void bring_back(const Vm& vm, HostVirt first, std::span<const PinAnswer> answers) noexcept {
  const auto memory = sys::RemoteMemory::open(vm.pid());
  if (!memory) return;
  PageCopy copy;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (answers[i] != PinAnswer::swapped) continue;
    const HostVirt at{first.value + i * kPageSize};
    (void)memory->read({&at, 1}, {&copy, 1});
  }
}

}  // namespace

ProofAnswer PrivateProof::ask(Vm& vm, PageRun run, PageMask leaving) noexcept {
  std::array<PinAnswer, kProofPagesMax.value> answers{};
  const std::span<PinAnswer> asked = std::span(answers).first(run.count.value);
  const HostVirt first = vm.address_of(run.first);
  VmCounters& counters = vm.counters();
  bool answered = pins_.ask(vm.pagemap(), first, asked);
  if (std::ranges::count(asked, PinAnswer::swapped) != 0) {
    bring_back(vm, first, asked);
    answered = pins_.ask(vm.pagemap(), first, asked);
  }
  if (!answered) counters.errors.add();
  ProofAnswer known;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto page = PageMask{1} << i;
    if (asked[i] == PinAnswer::quiet || asked[i] == PinAnswer::hole) {
      known.quiet |= page;
    } else if ((leaving & page) != 0) {
      count_not_quiet(counters, asked[i]);
    }
  }
  known.resident = known.quiet;
  return known;
}

}  // namespace ramfold::guest
