// SPDX-License-Identifier: GPL-2.0-or-later
// What a QEMU command line says of the guest's memory: the RAM that the machine has from the
// beginning, that of memory devices (pc-dimm, virtio-mem), and what is mapped for the guest but is
// no RAM (ivshmem, nvdimm). Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "cli/qemu_options.hpp"
#include "estimate/find_ram.hpp"

namespace ramfold::cli {

struct QemuMemory {
  struct Ram {
    std::string id;           // of its backend object; empty: the machine makes the RAM itself
    std::string type;         // "memory-backend-memfd"
    bool is_private = false;  // share=off
    bool hugetlb = false;
    bool is_device = false;  // a memory device's
  };
  std::vector<Ram> ram;
  std::string mem_path;                       // -mem-path; empty: not given
  std::vector<estimate::MemoryBlock> blocks;  // the sizes, also of what is no RAM

  ByteCount size() const;  // of the RAM
};
QemuMemory memory_of(const QemuOptions& options);

}  // namespace ramfold::cli
