// SPDX-License-Identifier: GPL-2.0-or-later
// Maps the pool over pages that equal contents in it: own -> guard -> check the gate -> ask the
// proof -> read, and compare with the slot -> check the gate -> word -> the agent maps, and punches
// what is beneath -> wake -> release. A page is never absent: before the mapping it is in the RAM
// file, afterwards in the pool. A clean page is guarded before, and stays so until the mapping
// replaces its guard; if it is not to be mapped after all it stays clean.
//
// References. A clean page's word has one. For any other page that is mapped the word takes the
// caller's. A clean page whose word names nothing in the end (emptied) leaves its own to the
// caller.
// Threads: one for each run. REQUIRES: the thread alone works on this chunk of the VM.
#pragma once

#include <optional>

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
  // No, and nothing is done: it was asked to before, and is not settled yet.
  Settled map(guest::AgentPort& agent, std::chrono::milliseconds wait);
  Settled settle() noexcept;
  // Once settled: the pages whose words say `mapped` now, and those of them that were clean.
  Mask mapped() const noexcept { return mapped_; }
  Mask mapped_from_clean() const noexcept { return static_cast<Mask>(mapped_ & from_clean_); }
  // Clean pages whose words name nothing any more.
  Mask emptied() const noexcept { return emptied_; }
  ContentId content(unsigned i) const noexcept { return contents_[i]; }
  // For a daemon that ends before this is settled: the pages keep their words, guards and slots.
  void abandon() noexcept { sent_ = owned_ = equal_ = 0; }

 private:
  void own(std::span<const ContentId> contents) noexcept;
  bool guard() noexcept;
  void keep_guarded() noexcept;
  void compare() noexcept;
  void undo(Mask pages) noexcept;

  // Given up when an answer does not come: the connection ends only when no run is under way, and
  // this one is settled only after the next connection has begun.
  std::optional<guest::Gate::Pass> pass_;
  Mask owned_ = 0;
  Mask clean_ = 0;  // owned, and their words say `clean`
  Mask from_clean_ = 0;
  Mask emptied_ = 0;
  Mask equal_ = 0;  // owned, with a slot
  Mask sent_ = 0;   // their words say `mapped`, and the kernel has not been asked yet
  Mask mapped_ = 0;
  std::array<guest::Word, kAgentRunPages.value> words_{};
  std::array<ContentId, kAgentRunPages.value> contents_{};
  std::array<ByteCount, kAgentRunPages.value> slots_{};
};

}  // namespace ramfold::fold
