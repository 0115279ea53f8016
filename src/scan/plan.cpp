// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/plan.hpp"

#include <algorithm>

namespace ramfold::scan {

Result<std::size_t> Planner::plan(guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                                  std::span<Window, kChunkWindows> into, const Asking* asking) {
  met_ = {};
  seen_ = {};
  const auto seen = sight_.look(vm, chunk, asking == nullptr ? nullptr : &asking->history);
  if (!seen) return std::unexpected(seen.error());
  seen_ = *seen;
  TouchedPages touched;
  if (asking != nullptr) touched = asking->source.touched(vm, seen_, asking->history);
  WindowList windows(into);
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    const SeenPage& page = seen_[i];
    ++met_.present;
    Touches touches;
    if (asking != nullptr) {
      if (asking->history.see(page.page, touched[i])) ++met_.asked.retouched;
      touches = asking->history.touches(page.page);
    }
    const guest::LoadedWord word = vm.table().load(page.page);
    if (word && rule.holds_back(*word)) ++met_.held;
    // A damaged word: to observe the page writes a new one.
    const Verdict verdict = word ? rule.judge(*word, page, touches) : Verdict::observe;
    const bool may_map = word && rule.stays_and_may_map(*word, page, touches);
    if (may_map) ++met_.active;  // until it maps the pool, or nothing equals it
    windows.put(vm.block_of(page.page), page.page, verdict, may_map);
    switch (verdict) {
      case Verdict::observe: ++met_.active; break;
      case Verdict::fold:
      case Verdict::again: ++met_.leaving; break;
      case Verdict::age:
        if (asking != nullptr) ++met_.active;  // the next pass hears an answer
        met_.warm_for = std::min(met_.warm_for, rule.epochs_to_cold(*word));
        break;
      case Verdict::leave:
        // No event tells of a write to it.
        if (word && word->tag() == guest::Tag::mapped) ++met_.active;
        break;
    }
  }
  return windows.count();
}

}  // namespace ramfold::scan
