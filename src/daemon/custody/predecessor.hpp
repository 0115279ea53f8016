// SPDX-License-Identifier: GPL-2.0-or-later
// Ensures that one daemon runs per host (L8), also when a killed daemon cannot end. A VM's process
// can hold a thread of the daemon in a system call that SIGKILL does not end. Then the process, its
// descriptors and its lock stay ("remains"). It makes no further call, so the next daemon starts
// beside it. The next daemon does not touch VMs on whose memory such a call may still take effect.
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

// A process that makes no further call and has not ended.
struct Remains {
  pid_t pid = -1;
  std::uint64_t start_ticks = 0;  // 0: its first thread has ended
  std::vector<VmId> vms;          // a call on their memory may still run
};

struct HostLock {
  sys::Fd file;
  std::optional<Remains> remains;  // of the daemon that held the lock before
};

// Takes a POSIX lock on the file ramfoldd.lock in `dir`. The lock ends with this process, even if
// others hold duplicates of the descriptor. If the process of a killed daemon does not end,
// replaces the file and locks the new one. Waits up to one second for a daemon that is ending.
// EAGAIN: another daemon runs.
Result<HostLock> take_host_lock(const std::string& dir, const sys::Procfs& procfs);

// True: the process, or at least one of its threads, has not ended.
bool is_there(const sys::Procfs& procfs, pid_t pid, std::uint64_t start_ticks);

}  // namespace ramfold::daemon
