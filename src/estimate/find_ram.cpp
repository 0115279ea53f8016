// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/find_ram.hpp"

#include <fmt/core.h>

#include <algorithm>

namespace ramfold::estimate {
namespace {

struct Block {
  RamRange range;
  dev_t device;
  ino_t inode;
  bool not_in_children;

  HostVirt end() const noexcept { return HostVirt{range.begin.value + range.size.value}; }
};

bool has_flag(std::string_view flags, std::string_view flag) {
  for (std::size_t at = 0; at + flag.size() <= flags.size(); at += 3) {
    while (at < flags.size() && flags[at] == ' ') ++at;
    if (flags.substr(at, flag.size()) == flag) return true;
  }
  return false;
}

Result<std::vector<Block>> blocks_of(const sys::Procfs& procfs, pid_t pid) {
  std::vector<Block> blocks;
  const sys::Seen seen = procfs.smaps(pid, [&](const sys::MapEntry& entry, std::string_view flags) {
    if (!entry.readable || !entry.writable || entry.executable) return true;
    // Heap and stack; anonymous memory may have a name.
    if (entry.path.starts_with('[') && !entry.path.starts_with("[anon")) return true;
    const Block block{{entry.begin, ByteCount{entry.end.value - entry.begin.value}, entry.shared},
                      entry.device,
                      entry.inode,
                      has_flag(flags, "dc")};
    if (!blocks.empty() && blocks.back().end() == entry.begin &&
        blocks.back().device == block.device && blocks.back().inode == block.inode &&
        blocks.back().range.shared == block.range.shared &&
        blocks.back().not_in_children == block.not_in_children) {
      blocks.back().range.size.value += block.range.size.value;
    } else {
      blocks.push_back(block);
    }
    return true;
  });
  if (seen == sys::Seen::all) return blocks;
  const char* remedy = seen == sys::Seen::denied ? ": run as root, or as QEMU's user" : "";
  return fail(fmt::format("read the mappings of process {}{}", pid, remedy), sys::errno_of(seen));
}

}  // namespace

Result<std::vector<RamRange>> find_ram(const sys::Procfs& procfs, pid_t pid, ByteCount wanted) {
  auto blocks = blocks_of(procfs, pid);
  if (!blocks) return std::unexpected(blocks.error());
  const auto marked = [](const Block& block) { return block.not_in_children; };
  // Without MADV_DONTFORK (a host that refuses it) size alone has to do.
  if (std::ranges::any_of(*blocks, marked)) std::erase_if(*blocks, std::not_fn(marked));
  std::ranges::stable_sort(*blocks, [](const Block& a, const Block& b) {
    return a.range.size.value > b.range.size.value;
  });
  std::vector<RamRange> ram;
  std::uint64_t found = 0;
  for (const Block& block : *blocks) {
    if (found >= wanted.value) break;
    found += block.range.size.value;
    ram.push_back(block.range);
  }
  if (found < wanted.value) {
    return fail(
        fmt::format("process {} maps {} MiB that may be guest RAM, its command line says {} "
                    "MiB: has it finished starting?",
                    pid, found >> 20, wanted.value >> 20));
  }
  std::ranges::sort(ram, {}, &RamRange::begin);
  return ram;
}

}  // namespace ramfold::estimate
