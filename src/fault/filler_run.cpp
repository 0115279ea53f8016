// SPDX-License-Identifier: GPL-2.0-or-later
// The part of Filler that brings folded neighbours back with a page that is touched.
#include <algorithm>

#include "base/test_points.hpp"
#include "fault/filler.hpp"

namespace ramfold::fault {

using guest::LoadedWord;
using guest::Tag;

bool Filler::bring_together(PageIndex p, FillerThread& me) noexcept {
  const NeighbourWindows::Guess guess = windows_.guess(p);
  const PageRun run = own_neighbours(p, guess.window, me);
  windows_.note(guess, run);
  if (run.count.value == 1) return false;
  TEST_POINT("fault.run");
  const Installed installed = install(run, me);
  // The kernel installs the pages in order, and stops at the first one that it cannot install.
  const PageRun came{run.first, PageCount{installed.result.bytes >> kPageShift}};
  if (came.count.value != 0) TEST_POINT("fault.copied");
  for (PageIndex q = came.first; q < came.end(); q = q + PageCount{1}) {
    const LoadedWord word = vm_.table().load(q);
    if (!word) continue;  // damaged since: the page is the truth (T1)
    (void)set_word(q, *word, word->becomes(Tag::clean, word->content(), 0, word->backoff()));
    TEST_POINT("fault.run.word");
  }
  // Also the waiters of neighbours. Their events, if nobody has read them, go with this.
  if (came.count.value != 0) wake(came);
  const bool p_came = p >= came.first && p < came.end();
  vm_.counters().neighbours_brought.add(came.count.value - (p_came ? 1 : 0));
  if (came.count != run.count) {
    vm_.counters().neighbour_runs_cut.add();
    windows_.shrink();
  }
  for (PageIndex q = run.first; q < run.end(); q = q + PageCount{1}) {
    if (q != p || p_came) release(q);
  }
  return p_came;
}

PageRun Filler::own_neighbours(PageIndex p, PageRun window, FillerThread& me) noexcept {
  const guest::Block& block = vm_.block_of(p);
  const PageIndex first = std::max(window.first, block.first);
  const PageIndex end = std::min(window.end(), block.end());
  PageRun run{p, PageCount{1}};
  while (run.end() < end && own_neighbour(run.end(), me)) ++run.count.value;
  while (run.first > first && own_neighbour(PageIndex{run.first.value - 1}, me)) {
    run = {PageIndex{run.first.value - 1}, PageCount{run.count.value + 1}};
  }
  return run;
}

bool Filler::own_neighbour(PageIndex q, FillerThread& me) noexcept {
  guest::PageTable& table = vm_.table();
  const auto is_folded = [&table, q](const LoadedWord& word) {
    return word && word->tag() == Tag::folded && !table.discarded(q);
  };
  if (!is_folded(table.load(q)) || !table.take_idle_for_fill(q)) return false;
  const LoadedWord word = table.load(q);
  if (is_folded(word) && source_.is_quick(word->content()) &&
      source_.get(group_, word->content(), me.bytes_of(q), {}) == store::Got::done) {
    return true;
  }
  // Whatever is wrong with it, only a fault on the page itself decides.
  release(q);
  return false;
}

}  // namespace ramfold::fault
