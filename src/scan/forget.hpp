// SPDX-License-Identifier: GPL-2.0-or-later
// Asks which pages of a chunk the guest touches: has the agent forget them (MADV_DONTNEED). Their
// entries in QEMU's page table go; pages and guards stay. A page that is in the page table at the
// next look was touched.
// Threads: the worker that has the chunk.
#pragma once

#include <array>
#include <span>

#include "guest/agent_port.hpp"
#include "guest/vm.hpp"
#include "scan/history.hpp"
#include "scan/sampling.hpp"

namespace ramfold::scan {

// Runs of whole blocks of 16 pages, all in one chunk.
struct Question {
  std::array<PageRun, guest::AgentPort::kRunsMax> runs{};
  std::size_t count = 0;
  std::uint64_t candidates = 0;  // pages of blocks that are worth asking about
  std::uint64_t pages = 0;       // of them, those in `runs`
};

// A block is worth asking about if one of its pages is in the page table and was not modified in
// the last pass. `seen`: the pages of a chunk.
Question choose(const guest::Vm& vm, std::span<const SeenPage> seen, const Sampling& sampling);

// False: nothing may be concluded about any page. Waits a moment for the agent. REQUIRES: the
// caller has the chunk, and no run of it is under way; no page of the VM is lost, because
// forgetting would remove its mark (D17).
bool ask(guest::AgentPort& port, const Question& question, std::span<const SeenPage> seen,
         History& history);

}  // namespace ramfold::scan
