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
#include "sys/uffd.hpp"

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
// The userfaultfd drives the memory of process `pid`, and no other's: a range of the blocks that
// nobody could guess, registered through it, shows in that process's mappings. No thread ever waits
// for it, as nothing is guarded, and at the end it is registered no more.
// What it cannot show: that no process relays what it sees to another. Whoever could do that owns
// both, and gives away nothing but his own memory.
// REQUIRES: check_offer() held; the handshake was made; nothing of the process is folded. Like
// every look at a process's mappings it lasts as long as the process can hold its own mmap_lock.
Status prove_owner(sys::Uffd uffd, pid_t pid, std::span<const RamBlock> blocks,
                   const sys::Procfs& procfs);
// The block's RAM file: a memfd (no hugetlb), open for reading and writing, with the identity and
// the size that the block names, sealed against shrinking and against nothing that folding does.
Status check_ram_file(sys::BorrowedFd fd, const rf_block& block);

}  // namespace ramfold::guest
