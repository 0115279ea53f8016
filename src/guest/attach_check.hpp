// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon checks of an agent's offer before it uses a single descriptor. The agent is
// treated as hostile: it may offer files that are not RAM, memory of other processes, descriptors
// that block the process that asks about them, and anything else. Only these pass: a userfaultfd,
// and memory files that cannot shrink and that the peer maps exactly as offered.
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
  uid_t uid = 0;  // the process's uid now; at connect(2) it may have been another (-runas)
  std::uint64_t start_ticks = 0;
};

// `fds`: the descriptors of the message: the userfaultfd, then one RAM file a block. Errors say
// which rule the offer breaks; all but ESRCH (the process is gone) mean that the agent is refused.
// REQUIRES: the caller holds a pidfd of the peer and sees it alive after the call, so that `pid`
// was the peer's all the time.
Result<CheckedOffer> check_offer(const rf_offer& offer, pid_t pid, std::span<const sys::Fd> fds,
                                 const sys::Procfs& procfs);

// The descriptor is a userfaultfd, and a read of it does not block. Asks the kernel only, never a
// file system.
Status check_uffd(sys::BorrowedFd fd);
// Proves that the userfaultfd drives the memory of process `pid`: it registers a random range of a
// block, and the range must then show as a mapping of that process. Nothing is guarded, so no
// thread waits, and at the end the range is unregistered. It does not exclude that somebody watches
// one process and makes the same mappings in another. He controls both processes, so he gives away
// only his own memory.
// REQUIRES: check_offer() held; the handshake was made; nothing of the process is folded. It reads
// the process's mappings, so the process can delay it by holding its own mmap_lock.
Status prove_owner(sys::Uffd uffd, pid_t pid, std::span<const RamBlock> blocks,
                   const sys::Procfs& procfs);
// The block's RAM file: a memfd (no hugetlb), open for reading and writing, with the identity and
// the size that the block names, sealed against shrinking, and not against writing.
Status check_ram_file(sys::BorrowedFd fd, const rf_block& block);

}  // namespace ramfold::guest
