// SPDX-License-Identifier: GPL-2.0-or-later
// Reads another process's memory without making any of it present: first /proc/PID/pagemap tells
// which pages are present, then process_vm_readv(2) copies those. Needs the right to ptrace the
// process (root, or its own user); stops nothing in it. A page that is paged out between the two
// calls is brought back, so the second call should follow the first soon.
// Documentation/admin-guide/mm/pagemap.rst.
// Threads: stateless over a descriptor.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

// Bits of a pagemap entry.
inline constexpr std::uint64_t kEntryPresent = 1ull << 63;
inline constexpr std::uint64_t kEntrySwapped = 1ull << 62;
// No other process maps the page. Not set for the kernel's own page of zeros.
inline constexpr std::uint64_t kEntryExclusive = 1ull << 56;

class RemoteMemory {
 public:
  static constexpr std::size_t kPagesMax = 256;  // of one read()

  // ESRCH: no such process. EACCES, EPERM: not ours to read.
  static Result<RemoteMemory> open(pid_t pid);

  // Reads the entries of the pages from `first` on. Returns how many it read. ESRCH: the process is
  // gone.
  Result<std::size_t> entries(HostVirt first, std::span<std::uint64_t> into) const;
  // Copies at most kPagesMax pages. Returns how many of the first ones were copied: fewer than all
  // when the next one is not mapped any more. REQUIRES: `into` is as long as `at`.
  Result<std::size_t> read(std::span<const HostVirt> at, std::span<PageCopy> into) const;

 private:
  RemoteMemory(pid_t pid, Fd pagemap) noexcept : pid_(pid), pagemap_(std::move(pagemap)) {}

  pid_t pid_;
  Fd pagemap_;
};

}  // namespace ramfold::sys
