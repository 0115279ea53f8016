// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/idle_source.hpp"

namespace ramfold::scan {

Status IdleSource::frames_in_pagemap(const guest::Vm& vm, PageRun run,
                                     std::span<std::uint64_t> into) {
  return vm.pagemap().frames(vm.range_of(run), into);
}

Status IdleSource::frames_of(const guest::Vm& vm, std::span<const SeenPage> seen,
                             Frames& frames) const {
  Frames of_run;
  for (std::size_t i = 0; i < seen.size();) {
    // From the first to the last page of those in one block.
    const PageIndex first = seen[i].page;
    const PageIndex block_end = vm.block_of(first).end();
    std::size_t end = i;
    while (end < seen.size() && seen[end].page < block_end) ++end;
    const std::uint64_t count = seen[end - 1].page.value - first.value + 1;
    const Status read = frames_of_(vm, {first, PageCount{count}}, std::span(of_run).first(count));
    if (!read) return read;
    for (; i < end; ++i) frames[i] = of_run[seen[i].page.value - first.value];
  }
  return {};
}

TouchedPages IdleSource::touched(const guest::Vm& vm, std::span<const SeenPage> seen,
                                 const History& history) const {
  TouchedPages touched;
  touched.set();
  bool is_any_asked = false;
  for (const SeenPage& page : seen) is_any_asked = is_any_asked || history.is_asked(page.page);
  if (!is_any_asked) return touched;
  Frames frames;
  if (!frames_of(vm, seen, frames)) return touched;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (!history.is_asked(seen[i].page)) frames[i] = 0;
  }
  std::array<bool, guest::kChunkPages.value> idle;
  if (!idle_.read(std::span(frames).first(seen.size()), std::span(idle).first(seen.size())))
    return touched;
  for (std::size_t i = 0; i < seen.size(); ++i) touched[i] = !idle[i];
  return touched;
}

bool IdleSource::ask(const guest::Vm& vm, guest::AgentPort*, const Question& question,
                     std::span<const SeenPage> seen, History& history) const {
  if (question.count == 0) return false;
  std::array<SeenPage, guest::kChunkPages.value> asked;
  std::size_t count = 0;
  each_asked(question, seen, [&](const SeenPage& page) {
    if (page.mapped) asked[count++] = page;
  });
  Frames frames;
  if (!frames_of(vm, std::span(asked).first(count), frames)) return false;
  if (!idle_.mark(std::span(frames).first(count))) return false;
  for (std::size_t i = 0; i < count; ++i) {
    if (frames[i] != 0) history.ask(asked[i].page);
  }
  return true;
}

}  // namespace ramfold::scan
