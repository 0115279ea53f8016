// SPDX-License-Identifier: GPL-2.0-or-later
// What a process maps at an address, from the kernel: PROCMAP_QUERY (Linux 6.11) on
// /proc/PID/maps. Unlike reading that file it does not take longer the more mappings there are.
// Threads: any; the first query opens the file.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/proc_file.hpp"

namespace ramfold::sys {

struct MappedRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t offset = 0;  // of `begin` in the file
  dev_t device = 0;          // of the file; 0 with inode 0: it maps none
  ino_t inode = 0;
  bool shared = false;
};

class VmaQuery {
 public:
  // As ProcFile: the first query opens the file.
  VmaQuery(pid_t pid, BorrowedFd pidfd) noexcept : file_(pid, pidfd, "maps") {}

  // The mapping that has the address; nothing: there is none. ESRCH: the process is gone.
  Result<std::optional<MappedRange>> at(HostVirt address) const;
  // The same, or else the first mapping after the address.
  Result<std::optional<MappedRange>> at_or_after(HostVirt address) const;

 private:
  Result<std::optional<MappedRange>> ask(HostVirt address, std::uint64_t flags) const;

  ProcFile file_;
};

}  // namespace ramfold::sys
