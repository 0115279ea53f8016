// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/plan.hpp"

namespace ramfold::scan {

Result<std::size_t> Planner::plan(guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                                  std::span<Window, kChunkWindows> into, History* history) {
  met_ = {};
  seen_ = {};
  const auto seen = sight_.look(vm, chunk, history);
  if (!seen) return std::unexpected(seen.error());
  seen_ = *seen;
  WindowList windows(into);
  for (const SeenPage& page : seen_) {
    ++met_.present;
    if (history != nullptr && history->see(page.page, page.mapped)) ++met_.asked.retouched;
    const Touches touches = history != nullptr ? history->touches(page.page) : Touches{};
    const guest::LoadedWord word = vm.table().load(page.page);
    if (word && rule.holds_back(*word)) ++met_.held;
    // A damaged word: to observe the page writes a new one.
    const Verdict verdict = word ? rule.judge(*word, page, touches) : Verdict::observe;
    windows.put(vm.block_of(page.page), page.page, verdict,
                word && rule.stays_and_may_map(*word, page, touches));
  }
  return windows.count();
}

}  // namespace ramfold::scan
