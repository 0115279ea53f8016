// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon checks of an agent's offer before it uses a single descriptor. The agent is
// treated as hostile: it may offer files that are not RAM, memory of other processes, descriptors
// that block whoever asks them something, and anything else. Nothing passes here that is not a
// memory file which cannot shrink, mapped in the peer exactly as offered, and a userfaultfd.
// Threads: any; no state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "guest/agent_messages.hpp"
#include "guest/facts.hpp"
#include "sys/fd.hpp"
#include "sys/procfs.hpp"

namespace ramfold::guest {

struct CheckedOffer {
  std::vector<RamBlock> blocks;  // in the order of the offer
  PageCount pages;               // of all blocks
  uid_t uid = 0;                 // the process's now; the one at connect may be older (-runas)
  std::uint64_t start_ticks = 0;
};

// `fds`: what came with the message: the userfaultfd, then one RAM file a block. Errors say which
// rule the offer breaks; all but ESRCH (the process is gone) mean that the agent is refused.
// REQUIRES: the caller holds a pidfd of the peer and sees it alive after the call, so that `pid`
// was the peer's all the time.
Result<CheckedOffer> check_offer(const rf_offer& offer, pid_t pid, std::span<const sys::Fd> fds,
                                 const sys::Procfs& procfs);

// A userfaultfd that does not block its reader. Asks the kernel only, never what is behind the
// descriptor.
Status check_uffd(sys::BorrowedFd fd);
// The block's RAM file: a memfd (no hugetlb), open for reading and writing, with the identity and
// the size that the block names, sealed against shrinking and against nothing that folding does.
Status check_ram_file(sys::BorrowedFd fd, const rf_block& block);

}  // namespace ramfold::guest
