// SPDX-License-Identifier: GPL-2.0-or-later
// Asks which pages of a VM the guest touches. There are several ways to ask; each is a source:
// scan/forget.hpp, scan/idle_source.hpp. A pass asks at the end of its work at a chunk, and the
// next pass hears the answer when it begins with that chunk.
// Threads: a source has no state; a chunk belongs to one worker.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <string_view>

#include "guest/agent_port.hpp"
#include "guest/vm.hpp"
#include "scan/history.hpp"
#include "scan/sampling.hpp"

namespace ramfold::scan {

// Runs of whole pieces of 16 pages, all in one chunk.
struct Question {
  std::array<PageRun, guest::AgentPort::kRunsMax> runs{};
  std::size_t count = 0;
  std::uint64_t candidates = 0;  // pages of pieces that are worth asking about
  std::uint64_t pages = 0;       // of them, those in `runs`
};

// A piece is worth asking about if one of its pages is in the page table and was not modified in
// the last pass. `seen`: the pages of a chunk.
Question choose(const guest::Vm& vm, std::span<const SeenPage> seen, const Sampling& sampling);

// Calls f(page) for those of `seen` that the question is about.
template <typename F>
void each_asked(const Question& question, std::span<const SeenPage> seen, F f) {
  auto run = question.runs.begin();
  const auto end = run + static_cast<std::ptrdiff_t>(question.count);
  for (const SeenPage& page : seen) {
    while (run != end && run->end() <= page.page) ++run;
    if (run == end) return;
    if (run->first <= page.page) f(page);
  }
}

// Bit i: the i-th page that was seen.
using TouchedPages = std::bitset<guest::kChunkPages.value>;

class ReferencedSource {
 public:
  virtual ~ReferencedSource() = default;
  // As in the configuration (scan.referenced).
  virtual std::string_view name() const noexcept = 0;
  // The guest's first touch of a page after ask() costs the guest so much.
  virtual std::uint64_t touch_ns() const noexcept = 0;
  // The VM's agent must help.
  virtual bool needs_agent() const noexcept = 0;
  // Of the pages `seen`, which `history` says were asked about, those that were touched since. A
  // page that the source does not know of counts as touched.
  virtual TouchedPages touched(const guest::Vm& vm, std::span<const SeenPage> seen,
                               const History& history) const = 0;
  // From now on the source can tell whether the guest touches the pages of `question`; notes them
  // in `history`. False: nothing may be concluded about any page. `agent`: not null if this needs
  // one. REQUIRES: the caller has the chunk, and no run of it is under way; no page of the VM is
  // lost.
  virtual bool ask(const guest::Vm& vm, guest::AgentPort* agent, const Question& question,
                   std::span<const SeenPage> seen, History& history) const = 0;
};

// For a plan: the source, and its answers so far.
struct Asking {
  const ReferencedSource& source;
  History& history;
};

}  // namespace ramfold::scan
