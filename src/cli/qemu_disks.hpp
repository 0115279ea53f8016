// SPDX-License-Identifier: GPL-2.0-or-later
// The disks of a QEMU command line that guest memory is given to. A disk is a graph of nodes (a
// throttle over a qcow2 over a file, a chain of backing files, a quorum), each node with keys of
// its own at any depth, as JSON or with dots.
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/qemu_properties.hpp"

namespace ramfold::cli {

struct DiskFinding {
  enum class Kind : std::uint8_t {
    user_space_nvme,   // QEMU drives the controller itself, which writes to guest memory
    device_by_itself,  // another device that writes to guest memory itself
    other_process,     // guest memory is given to a process that serves the disk
  };
  Kind kind = Kind::user_space_nvme;
  std::string disk;  // its file, or what else it is called by
  std::string how;   // "driver nvme"
};

enum class DiskOption : std::uint8_t { drive, blockdev };
// A node that the option only names is found with the option that makes it.
std::vector<DiskFinding> look_at_disk(DiskOption option, Properties properties);

}  // namespace ramfold::cli
