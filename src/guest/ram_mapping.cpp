// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/ram_mapping.hpp"

#include <algorithm>

namespace ramfold::guest {
namespace {

bool is_of(const sys::MapEntry& entry, const RamBlock& block) noexcept {
  return block.file.device == entry.device && block.file.inode == entry.inode;
}

// The entry is a part of the block, where the agent said. REQUIRES: the block's end does not
// overflow.
bool is_part_of(const sys::MapEntry& entry, const RamBlock& block) noexcept {
  return is_of(entry, block) && entry.begin >= block.address &&
         entry.end.value <= block.address.value + block.size.value &&
         entry.offset == block.offset.value + (entry.begin.value - block.address.value);
}

// A private mapping of the pool, in the place of a part of the block.
bool is_pool_within(const sys::MapEntry& entry, RamFileId pool, const RamBlock& block) noexcept {
  return !entry.shared && entry.readable && entry.writable && pool.device == entry.device &&
         pool.inode == entry.inode && entry.begin >= block.address &&
         entry.end.value <= block.address.value + block.size.value;
}

}  // namespace

bool is_ram(const sys::MapEntry& entry, std::span<const RamBlock> blocks) noexcept {
  return std::ranges::any_of(blocks, [&](const RamBlock& block) { return is_of(entry, block); });
}

RamMapping look_at_ram(const sys::Procfs& procfs, pid_t pid, std::span<const RamBlock> blocks,
                       std::optional<RamFileId> pool) {
  RamMapping found;
  std::uint64_t mapped = 0;
  bool in_place = true;
  found.seen = procfs.mappings(pid, [&](const sys::MapEntry& entry) {
    if (entry.path.starts_with("/anon_hugepage")) found.hugetlb = true;
    if (pool && std::ranges::any_of(blocks, [&](const RamBlock& block) {
          return is_pool_within(entry, *pool, block);
        })) {
      ++found.vmas;
      mapped += entry.end.value - entry.begin.value;
      return true;
    }
    if (!is_ram(entry, blocks)) {
      if (entry.shared && entry.path.starts_with("/memfd:memory-backend-memfd"))
        found.beside.value += entry.end.value - entry.begin.value;
      return true;
    }
    ++found.vmas;
    mapped += entry.end.value - entry.begin.value;
    in_place = in_place && entry.shared && entry.readable && entry.writable &&
               std::ranges::any_of(blocks,
                                   [&](const RamBlock& block) { return is_part_of(entry, block); });
    return true;
  });
  // Mappings never overlap. So if every mapping is part of a block, and their sizes add up to those
  // of the blocks, then every block is mapped, and mapped once.
  std::uint64_t wanted = 0;
  for (const RamBlock& block : blocks) wanted += block.size.value;
  found.exact = in_place && mapped == wanted;
  return found;
}

}  // namespace ramfold::guest
