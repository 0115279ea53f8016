// SPDX-License-Identifier: GPL-2.0-or-later
// The work on one chunk: plan, look at its pages, fold those that may leave, and ask which ones the
// guest touches from now on. Or only count the pages that something holds.
// Threads: one.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/threads/nap.hpp"
#include "daemon/work/chunk_queue.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "scan/plan.hpp"

namespace ramfold::daemon {

class ChunkWork {
 public:
  // The work ends early when `stopping` is raised. `agents`: null when no source is asked.
  // REQUIRES: all outlive this.
  ChunkWork(store::Contents& contents, HostState& host, AgentAnswers* agents,
            const sys::PinTest& pin_test, const StopFlag& stopping)
      : host_(host),
        agents_(agents),
        stopping_(stopping),
        proof_(pin_test),
        planner_(proof_),
        folder_(contents, proof_) {}
  ChunkWork(const ChunkWork&) = delete;  // planner and folder point to the proof
  ChunkWork& operator=(const ChunkWork&) = delete;

  struct Done {
    scan::Met met;
    std::uint64_t busy = 0;     // pages that something holds; of a claim that counts
    std::uint64_t fold_ns = 0;  // the CPU time of folding alone
  };
  Done work(const ChunkClaim& claim);

 private:
  // Of a VM that is not folded: how many of its pages are there, and how many of them are held.
  Done count(const ChunkClaim& claim);
  // Asks which pages of the chunk the guest touches from now on.
  void ask(const ChunkClaim& claim, guest::AgentPort* agent, scan::Met& met);
  void fold(AttachedVm& vm, std::span<const scan::Window> windows);
  store::Admit admitted(const AttachedVm& vm) const noexcept;

  HostState& host_;
  AgentAnswers* agents_;
  const StopFlag& stopping_;
  guest::PinProof proof_;
  scan::Planner planner_;
  fold::Folder folder_;
  std::array<scan::Window, scan::kChunkWindows> windows_;
};

}  // namespace ramfold::daemon
