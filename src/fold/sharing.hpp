// SPDX-License-Identifier: GPL-2.0-or-later
// Maps the pool over pages that equal contents in it: own -> guard -> check the gate -> ask the
// proof -> read, and compare with the slot -> check the gate -> word -> the agent maps, and punches
// what is beneath -> wake -> release. A page is never absent: before the mapping it is in the RAM
// file, afterwards in the pool.
// Threads: one for each run. REQUIRES: the thread alone works on this chunk of the VM.
#pragma once

#include "fold/agent_run.hpp"

namespace ramfold::fold {

class SharingRun : public AgentRun {
 public:
  // Owns, guards and compares. contents[i] is what page i is believed to equal; kZeroContent: leave
  // the page alone. REQUIRES: at most kAgentRunPages, in one block; the caller holds a reference
  // for each of the contents.
  SharingRun(guest::Vm& vm, const sys::VmaQuery& vmas, guest::QuietProof& proof, SharedPool& pool,
             PageRun run, std::span<const ContentId> contents) noexcept;
  // REQUIRES: settled.
  ~SharingRun();

  // The pages that equal their contents.
  Mask equal() const noexcept { return equal_; }
  Settled map(guest::AgentPort& agent, std::chrono::milliseconds wait);
  Settled settle() noexcept;
  // The pages whose words name their contents now: each has one of the caller's references.
  Mask mapped() const noexcept { return mapped_; }

 private:
  void own(std::span<const ContentId> contents) noexcept;
  bool guard() noexcept;
  void keep_guarded() noexcept;
  void compare() noexcept;
  void undo(Mask pages) noexcept;

  guest::Gate::Pass pass_;
  Mask owned_ = 0;
  Mask equal_ = 0;  // owned, with a slot
  Mask sent_ = 0;   // their words say `mapped`, and the kernel has not been asked yet
  Mask mapped_ = 0;
  std::array<guest::Word, kAgentRunPages.value> words_{};
  std::array<ContentId, kAgentRunPages.value> contents_{};
  std::array<ByteCount, kAgentRunPages.value> slots_{};
};

}  // namespace ramfold::fold
