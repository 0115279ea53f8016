// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/ram_mapping.hpp"

#include <algorithm>

#include "guest/vm.hpp"

namespace ramfold::guest {
namespace {

constexpr ByteCount kFillingMax{64 * kPageSize};  // RF_FILL_PAGES of the agent's

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

// The agent's, through which it fills holes of the RAM file (save() in src/agent/core/mapping.c).
// There is one for less than a millisecond. Nothing else maps RAM so that it can only be written.
bool is_filling(const sys::MapEntry& entry) noexcept {
  return entry.shared && entry.writable && !entry.readable &&
         entry.end.value - entry.begin.value <= kFillingMax.value;
}

bool is_of_any(const sys::MapEntry& entry, std::span<const RamBlock> blocks) noexcept {
  return std::ranges::any_of(blocks, [&](const RamBlock& block) { return is_of(entry, block); });
}

}  // namespace

bool is_ram(const sys::MapEntry& entry, std::span<const RamBlock> blocks) noexcept {
  return is_of_any(entry, blocks) && !is_filling(entry);
}

bool maps_ram(const Vm& vm, PageIndex p, const sys::MappedRange& range) noexcept {
  const Block& block = vm.block_of(p);
  const rf_block& offered =
      vm.record().block[static_cast<std::size_t>(&block - vm.blocks().data())];
  const std::uint64_t in_ram = block.offset.value + ((p.value - block.first.value) << kPageShift);
  return RamFileId{range.device, range.inode} == RamFileId{offered.device, offered.inode} &&
         range.shared && range.offset + (vm.address_of(p).value - range.begin) == in_ram;
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
      if (!is_of_any(entry, blocks) && entry.path.starts_with("/memfd:memory-backend-memfd"))
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
