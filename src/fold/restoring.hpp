// SPDX-License-Identifier: GPL-2.0-or-later
// Puts pages that map the pool back into the RAM file: own -> register for guards, guard -> ask the
// proof -> the agent saves the bytes into the RAM file and maps it -> register -> word -> lift ->
// wake -> release -> the slot is given back. Pages whose mapping QEMU has discarded are registered
// and forgotten in the same way. Write events meanwhile are left alone: the release wakes.
// Threads: one for each run. REQUIRES: the thread alone works on this chunk of the VM.
#pragma once

#include "fold/agent_run.hpp"

namespace ramfold::fold {

class RestoringRun : public AgentRun {
 public:
  // Owns the pages whose words say `mapped`, and guards them. `proof`: tells of the private copies
  // behind their addresses which are quiet. REQUIRES: at most kAgentRunPages, in one block.
  RestoringRun(guest::Vm& vm, const sys::VmaQuery& vmas, guest::QuietProof& proof, SharedPool& pool,
               PageRun run) noexcept;
  // REQUIRES: settled.
  ~RestoringRun();

  // No, and nothing is done: it was asked to before, and is not settled yet.
  Settled restore(guest::AgentPort& agent, std::chrono::milliseconds wait);
  Settled settle() noexcept;
  // The pages that are in the RAM file again. The caller gives up the reference that each word
  // held: that of content(i).
  Mask restored() const noexcept { return restored_; }
  ContentId content(unsigned i) const noexcept { return words_[i].content(); }
  // For a daemon that ends before this is settled: the pages keep their words, guards and slots.
  void abandon() noexcept {
    asked_ = false;
    owned_ = quiet_ = 0;
  }

 private:
  void finish() noexcept;

  Mask owned_ = 0;
  Mask quiet_ = 0;  // owned, guarded, mapping the pool, and quiet
  bool asked_ = false;
  Mask restored_ = 0;
  std::array<guest::Word, kAgentRunPages.value> words_{};
};

}  // namespace ramfold::fold
