// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the mappings of a running QEMU that are its guest's RAM: anonymous, a memfd or a file. QEMU
// marks every block of guest memory with MADV_DONTFORK ("dc" in smaps), but not its heap and the
// code that TCG has translated. Of the marked blocks, RAM are those that the command line names, by
// kind and size. The others belong to the firmware and the display.
// Threads: pure, except for reading /proc.
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

// A block of guest memory that the command line names.
enum class Backing : std::uint8_t { any, anonymous, memfd, file };
struct MemoryBlock {
  ByteCount size;
  Backing backing = Backing::any;
  std::string path;    // of the file, or of the directory that it is in; may be empty
  bool is_ram = true;  // false: the memory of an ivshmem or nvdimm device

  friend bool operator==(const MemoryBlock&, const MemoryBlock&) = default;
};

// The ranges of RAM in order of address, together at least as large as the blocks that are RAM.
// Adjacent blocks may be one mapping. So for a block that no mapping fits exactly, the largest
// mappings are taken. Errors, each with its remedy: EACCES, ESRCH, or 0 when the mappings are too
// small.
Result<std::vector<RamRange>> find_ram(const sys::Procfs& procfs, pid_t pid,
                                       std::span<const MemoryBlock> blocks);

}  // namespace ramfold::estimate
