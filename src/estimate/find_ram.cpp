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
  std::string path;

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
    // [heap], [stack] and others are no RAM. [anon:NAME] may be: anonymous memory can have a name.
    if (entry.path.starts_with('[') && !entry.path.starts_with("[anon")) return true;
    const Block block{{entry.begin, ByteCount{entry.end.value - entry.begin.value}, entry.shared},
                      entry.device,
                      entry.inode,
                      has_flag(flags, "dc"),
                      std::string(entry.path)};
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

Backing backing_of(const Block& block) {
  if (block.path.starts_with("/memfd:")) return Backing::memfd;
  if (block.path.starts_with('/')) return Backing::file;
  return Backing::anonymous;
}

bool is_of_kind(const Block& block, const MemoryBlock& wanted) {
  if (wanted.backing != Backing::any && wanted.backing != backing_of(block)) return false;
  if (wanted.path.empty() || !block.path.starts_with(wanted.path)) return wanted.path.empty();
  // The path may be a directory: "/dev/shm" for "/dev/shm/qemu_back_mem.r.a1b2 (deleted)".
  const std::string_view rest = std::string_view(block.path).substr(wanted.path.size());
  return rest.empty() || rest.starts_with('/') || rest == " (deleted)" ||
         wanted.path.ends_with('/');
}

class Search {
 public:
  explicit Search(std::vector<Block> blocks) : blocks_(std::move(blocks)) {
    std::ranges::stable_sort(blocks_, [](const Block& a, const Block& b) {
      return a.range.size.value > b.range.size.value;
    });
  }

  // Removes the mapping that is exactly this block, and takes it if the block is RAM.
  bool take_exact(const MemoryBlock& wanted) {
    const auto found = std::ranges::find_if(blocks_, [&](const Block& block) {
      return block.range.size == wanted.size && is_of_kind(block, wanted);
    });
    if (found == blocks_.end()) return false;
    if (wanted.is_ram) take(*found);
    blocks_.erase(found);
    return true;
  }

  // Takes the largest mappings for which fits() is true, until they have `bytes` bytes. Returns the
  // bytes that are still missing.
  template <typename Fits>
  std::uint64_t take_largest(std::uint64_t bytes, Fits fits) {
    std::erase_if(blocks_, [&](const Block& block) {
      if (bytes == 0 || !fits(block)) return false;
      bytes -= std::min(bytes, block.range.size.value);
      take(block);
      return true;
    });
    return bytes;
  }

  std::vector<RamRange> ram() && { return std::move(ram_); }

 private:
  void take(const Block& block) { ram_.push_back(block.range); }

  std::vector<Block> blocks_;  // the largest first
  std::vector<RamRange> ram_;
};

}  // namespace

Result<std::vector<RamRange>> find_ram(const sys::Procfs& procfs, pid_t pid,
                                       std::span<const MemoryBlock> blocks) {
  auto mapped = blocks_of(procfs, pid);
  if (!mapped) return std::unexpected(mapped.error());
  const auto marked = [](const Block& block) { return block.not_in_children; };
  // Where the host refuses MADV_DONTFORK, no mapping is marked; then kind and size alone decide.
  if (std::ranges::any_of(*mapped, marked)) std::erase_if(*mapped, std::not_fn(marked));
  Search search(std::move(*mapped));
  for (const MemoryBlock& block : blocks) {
    if (!block.is_ram) search.take_exact(block);
  }
  std::vector<MemoryBlock> inexact;
  for (const MemoryBlock& block : blocks) {
    if (block.is_ram && !search.take_exact(block)) inexact.push_back(block);
  }
  std::uint64_t missing = 0;
  for (const Backing backing : {Backing::anonymous, Backing::memfd, Backing::file, Backing::any}) {
    std::uint64_t wanted = 0;
    for (const MemoryBlock& block : inexact) {
      if (block.backing == backing) wanted += block.size.value;
    }
    missing += search.take_largest(wanted, [&](const Block& block) {
      return backing == Backing::any || backing_of(block) == backing;
    });
  }
  missing = search.take_largest(missing, [](const Block&) { return true; });
  if (missing != 0) {
    std::uint64_t all = 0;
    for (const MemoryBlock& block : blocks) all += block.is_ram ? block.size.value : 0;
    return fail(
        fmt::format("process {} maps {} MiB that may be guest RAM, its command line says {} "
                    "MiB: has it finished starting?",
                    pid, (all - missing) >> 20, all >> 20));
  }
  std::vector<RamRange> ram = std::move(search).ram();
  std::ranges::sort(ram, {}, &RamRange::begin);
  return ram;
}

}  // namespace ramfold::estimate
