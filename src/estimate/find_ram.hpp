// SPDX-License-Identifier: GPL-2.0-or-later
// Which mappings of a running QEMU are its guest's RAM, of whatever kind: anonymous, a memfd, a
// file. QEMU keeps every block of guest memory out of its children (MADV_DONTFORK, "dc" in smaps),
// which tells it from its heap and from code that TCG has translated. Of those blocks the RAM are
// the ones that the command line tells of, by kind and size; the others are the firmware's and the
// display's. Threads: pure but for reading /proc.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
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

// A block of guest memory as the command line tells of it.
enum class Backing : std::uint8_t { any, anonymous, memfd, file };
struct MemoryBlock {
  ByteCount size;
  Backing backing = Backing::any;
  std::string path;    // of a file: itself, or the directory that it was made in; may be empty
  bool is_ram = true;  // false: an ivshmem's, an nvdimm's

  friend bool operator==(const MemoryBlock&, const MemoryBlock&) = default;
};

// In order of address; together at least as large as the blocks that are RAM. Adjacent blocks may
// be one mapping, so what no mapping fits exactly is taken from the largest ones. The error names
// what to do: EACCES, ESRCH, or 0 when no mappings are as large.
Result<std::vector<RamRange>> find_ram(const sys::Procfs& procfs, pid_t pid,
                                       std::span<const MemoryBlock> blocks);

}  // namespace ramfold::estimate
