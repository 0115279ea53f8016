// SPDX-License-Identifier: GPL-2.0-or-later
// Whether a process maps its RAM files exactly where its agent said: shared, readable, writable,
// once. In the place of parts of RAM it may map the pool. Threads: values.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "guest/facts.hpp"
#include "sys/procfs.hpp"
#include "sys/vma_query.hpp"

namespace ramfold::guest {

class Vm;

struct RamMapping {
  sys::Seen seen = sys::Seen::all;
  std::size_t vmas = 0;  // of RAM files, and of the pool in their places
  bool exact = false;    // these mappings are the blocks, no more and no less
  bool hugetlb = false;  // the process has memory on hugetlbfs
  // Of RAM of memory-backend-memfd that the agent did not offer: it was plugged in later. RAM of
  // other backends looks like other memory of the process, and is not counted.
  ByteCount beside;
};
// `pool`: the file of the pool that its pages may map; nothing: they map none.
RamMapping look_at_ram(const sys::Procfs& procfs, pid_t pid, std::span<const RamBlock> blocks,
                       std::optional<RamFileId> pool = std::nullopt);
// Of RAM files, but not the agent's for a moment to fill holes through.
bool is_ram(const sys::MapEntry& entry, std::span<const RamBlock> blocks) noexcept;
// The range maps the RAM file where p's address is, as it should.
bool maps_ram(const Vm& vm, PageIndex p, const sys::MappedRange& range) noexcept;

}  // namespace ramfold::guest
