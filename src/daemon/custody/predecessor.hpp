// SPDX-License-Identifier: GPL-2.0-or-later
// One daemon a host (L8), and what is left of one that was killed and cannot end: a VM's process
// can hold a thread of it in a system call, beyond the reach of SIGKILL, and with it the process,
// its descriptors and its lock. Nothing of it runs any more, so the next daemon goes on beside it,
// and leaves alone those VMs on whose memory such a call may still take effect.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

// Of a process that makes no further call, and has not ended.
struct Remains {
  pid_t pid = -1;
  std::uint64_t start_ticks = 0;  // 0: its first thread has ended
  std::vector<VmId> vms;          // a call on their memory may be under way
};

struct HostLock {
  sys::Fd file;
  std::optional<Remains> remains;  // of the daemon that had it before
};

// A POSIX lock on a file of ours, which dies with its process, whoever holds duplicates; or, where
// the process of a killed daemon does not end, on a new file in the place of that one. EAGAIN:
// another daemon runs. A daemon that is ending just now is waited for, a second at most.
Result<HostLock> take_host_lock(const std::string& dir, const sys::Procfs& procfs);

// The process is still there, if only for a thread that does not end.
bool is_there(const sys::Procfs& procfs, pid_t pid, std::uint64_t start_ticks);

}  // namespace ramfold::daemon
