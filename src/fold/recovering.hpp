// SPDX-License-Identifier: GPL-2.0-or-later
// After a restart: pages whose words say `mapped`. Asks the kernel what each address maps (T2):
//   a slot of the pool   the page stays mapped, and its slot is noted
//   the RAM file         register, word: none; the caller gives up the word's reference
//   anything else        the page stays `mapped`: it may be a pool that was lost, so the RAM file
//                        need not have the page
// Then the guards go that a run of an earlier daemon left, and whoever waits is woken.
// Threads: one for each run. REQUIRES: no command of an earlier daemon runs any more (the fence),
// and this daemon has sent none.
#pragma once

#include "fold/agent_run.hpp"
#include "fold/vm_pool.hpp"

namespace ramfold::fold {

class RecoveringRun : public AgentRun {
 public:
  // Owns the pages whose words say `mapped`. REQUIRES: at most kAgentRunPages, in one block.
  RecoveringRun(guest::Vm& vm, const sys::VmaQuery& vmas, VmPool& pool, PageRun run) noexcept;
  // Those that are not recovered stay guarded, and keep their words.
  ~RecoveringRun();

  // Errors: ESRCH the process is gone; ENOMEM, and others of the kernel: try these pages again.
  Status recover() noexcept;

  // A fault owns one of the pages at this moment: try them again.
  bool any_busy() const noexcept { return busy_; }
  // Pages that have left: the caller gives up the reference of each, that of content(i).
  Mask left() const noexcept { return left_; }
  ContentId content(unsigned i) const noexcept { return words_[i].content(); }
  // Of the pages that stay, those whose slot has not the bytes that their words name.
  Mask damaged() const noexcept { return damaged_; }
  // Of the pages that stay, those that map neither a slot nor the RAM file.
  Mask strange() const noexcept { return strange_; }

 private:
  Status keep(unsigned i) noexcept;

  VmPool& pool_of_vm_;
  bool busy_ = false;
  Mask owned_ = 0;
  Mask left_ = 0;
  Mask damaged_ = 0;
  Mask strange_ = 0;
  std::array<guest::Word, kAgentRunPages.value> words_{};
};

}  // namespace ramfold::fold
