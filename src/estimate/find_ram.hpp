// SPDX-License-Identifier: GPL-2.0-or-later
// Which mappings of a running QEMU are its guest's RAM, of whatever kind: anonymous, a memfd, a
// file. QEMU keeps every block of guest memory out of its children (MADV_DONTFORK, "dc" in smaps),
// which tells it from its heap and from code that TCG has translated. Of those blocks the largest
// are the RAM, as many as the command line says; the others are the firmware's and the display's.
// Threads: pure but for reading /proc.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/procfs.hpp"

namespace ramfold::estimate {

// Adjacent mappings are one range.
struct RamRange {
  HostVirt begin;
  ByteCount size;
  bool shared = false;

  friend bool operator==(const RamRange&, const RamRange&) = default;
};

// In order of address. `wanted`: the RAM's size as the command line says, not 0. The error names
// what to do: EACCES, ESRCH, or 0 when no mappings are as large.
Result<std::vector<RamRange>> find_ram(const sys::Procfs& procfs, pid_t pid, ByteCount wanted);

}  // namespace ramfold::estimate
