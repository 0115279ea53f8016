// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/forget.hpp"

#include <chrono>

#include "scan/windows.hpp"

namespace ramfold::scan {
namespace {

using guest::Tag;

// The agent's thread answers in well under a millisecond. An answer that comes later is lost with
// its question: the pages are asked about again in another pass.
constexpr std::chrono::milliseconds kPatience{100};
// A call holds QEMU's mmap_lock; 130 us for so many pages on a busy machine.
constexpr PageCount kRunPagesMax{256};

bool is_worth_asking(const guest::Vm& vm, const SeenPage& seen) noexcept {
  if (!seen.mapped) return false;
  const guest::LoadedWord word = vm.table().load(seen.page);
  if (!word) return false;
  return word->tag() == Tag::clean || (word->tag() == Tag::observed && word->age() != 0);
}

// The agent forgets nothing of a run in which a page maps the pool: a copy would be lost.
bool any_maps_pool(const guest::Vm& vm, PageRun window) noexcept {
  for (PageIndex p = window.first; p < window.end(); ++p.value) {
    const guest::LoadedWord word = vm.table().load(p);
    if (word && word->tag() == Tag::mapped) return true;
  }
  return false;
}

void add(Question& question, const guest::Block& block, PageRun window) noexcept {
  if (question.count != 0) {
    PageRun& last = question.runs[question.count - 1];
    if (last.end() == window.first && window.first != block.first &&
        last.count.value + window.count.value <= kRunPagesMax.value) {
      last.count = PageCount{last.count.value + window.count.value};
      return;
    }
  }
  if (question.count < question.runs.size()) question.runs[question.count++] = window;
}

}  // namespace

Question choose(const guest::Vm& vm, std::span<const SeenPage> seen, const Sampling& sampling) {
  Question question;
  for (std::size_t i = 0; i < seen.size();) {
    const guest::Block& block = vm.block_of(seen[i].page);
    const PageRun window = window_of(block, seen[i].page);
    std::uint64_t mapped = 0;
    bool is_worth = false;
    for (; i < seen.size() && seen[i].page < window.end(); ++i) {
      mapped += seen[i].mapped;
      is_worth = is_worth || is_worth_asking(vm, seen[i]);
    }
    if (!is_worth || any_maps_pool(vm, window)) continue;
    question.candidates += mapped;
    if (!sampling.takes(window.first, vm.pass_now())) continue;
    question.pages += mapped;
    add(question, block, window);
  }
  return question;
}

bool ask(guest::AgentPort& port, const Question& question, std::span<const SeenPage> seen,
         History& history) {
  if (question.count == 0) return false;
  const std::span<const PageRun> runs = std::span(question.runs).first(question.count);
  const auto token = port.send(guest::AgentAct::forget, runs);
  if (!token) return false;
  const auto answer = port.take(*token, kPatience);
  if (!answer) port.give_up(*token);
  if (answer != guest::AgentAnswer::done) return false;
  auto run = runs.begin();
  for (const SeenPage& page : seen) {
    while (run != runs.end() && run->end() <= page.page) ++run;
    if (run == runs.end()) break;
    if (run->first <= page.page) history.forget(page.page);
  }
  return true;
}

}  // namespace ramfold::scan
