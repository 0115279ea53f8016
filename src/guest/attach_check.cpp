// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/attach_check.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>

#include "guest/ram_mapping.hpp"

namespace ramfold::guest {
namespace {

// Seals that would make fallocate(PUNCH_HOLE) or UFFDIO_COPY fail later.
constexpr int kSealsAgainstFolding = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;

// Fewest pages in which a range has room whose borders are not the block's.
constexpr std::uint64_t kProofPagesMin = 16;

}  // namespace

Status check_uffd(sys::BorrowedFd fd) {
  const auto link = sys::own_link(fd.get());
  if (!link) return std::unexpected(link.error());
  if (*link != "anon_inode:[userfaultfd]")
    return fail("the first descriptor is no userfaultfd", EPROTO);
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || (flags & O_NONBLOCK) == 0) return fail("the userfaultfd would block", EPROTO);
  return {};
}

Status check_ram_file(sys::BorrowedFd fd, const rf_block& block) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0 || (flags & O_ACCMODE) != O_RDWR) {
    return fail("a RAM file is not open for reading and writing", EPROTO);
  }
  // This comes first, because the kernel answers it by itself: only memory files have seals. For a
  // file of the agent's own FUSE server, fstat would ask that server, which could let it wait.
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return fail("a RAM file is no memory file", EPROTO);
  if ((seals & F_SEAL_SHRINK) == 0) return fail("a RAM file could shrink", EPROTO);
  if ((seals & kSealsAgainstFolding) != 0)
    return fail("a RAM file is sealed against writing", EPROTO);
  struct statfs filesystem{};
  if (::fstatfs(fd.get(), &filesystem) != 0) return fail_errno("fstatfs of a RAM file");
  if (filesystem.f_type != TMPFS_MAGIC) return fail("a RAM file lies on hugetlbfs", EPROTO);
  const auto link = sys::own_link(fd.get());
  if (!link) return std::unexpected(link.error());
  if (!link->starts_with("/memfd:")) return fail("a RAM file is no memfd", EPROTO);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("fstat of a RAM file");
  if (st.st_dev != block.device || st.st_ino != block.inode) {
    return fail("a RAM file is not the one that the offer names", EPROTO);
  }
  if (st.st_size < 0 || static_cast<std::uint64_t>(st.st_size) < block.offset + block.size) {
    return fail("a RAM file is shorter than its block", EPROTO);
  }
  return {};
}

Result<CheckedOffer> check_offer(const rf_offer& offer, pid_t pid, std::span<const sys::Fd> fds,
                                 const sys::Procfs& procfs) {
  if (pid <= 0) return fail("the agent's process cannot be seen from here", EPROTO);
  if (offer.blocks == 0 || offer.blocks > RF_BLOCKS_MAX) {
    return fail("an offer has no RAM blocks, or too many", EPROTO);
  }
  if (fds.size() != std::size_t{1} + offer.blocks) {
    return fail("an offer's descriptors are not a userfaultfd and one for each block", EPROTO);
  }
  const std::span blocks(offer.block, offer.blocks);
  if (Status status = check_layout(blocks); !status)
    return std::unexpected(std::move(status.error()));
  if (Status status = check_uffd(fds[0]); !status) {
    return std::unexpected(std::move(status.error()));
  }
  CheckedOffer checked;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const rf_block& block = blocks[i];
    if (Status status = check_ram_file(fds[i + 1], block); !status) {
      return std::unexpected(std::move(status.error()));
    }
    checked.blocks.push_back({{block.device, block.inode},
                              HostVirt{block.address},
                              ByteCount{block.size},
                              ByteCount{block.offset}});
    checked.pages.value += block.size >> kPageShift;
  }
  const RamMapping mapping = look_at_ram(procfs, pid, checked.blocks);
  if (mapping.seen != sys::Seen::all) {
    return fail("the mappings of the agent's process cannot be read", sys::errno_of(mapping.seen));
  }
  if (!mapping.exact) {
    return fail("RAM is not mapped exactly where the offer says, shared, writable, once", EPROTO);
  }
  const auto status = procfs.status(pid);
  if (!status) return std::unexpected(status.error());
  const auto ticks = procfs.start_ticks(pid);
  if (!ticks) return std::unexpected(ticks.error());
  checked.uid = status->uid;
  checked.start_ticks = *ticks;
  return checked;
}

namespace {

// One mapping of `pid` is exactly `range`.
Result<bool> has_mapping(const sys::Procfs& procfs, pid_t pid, sys::UffdRange range) {
  bool found = false;
  const sys::Seen seen = procfs.mappings(pid, [&](const sys::MapEntry& entry) {
    found = entry.begin == range.start && entry.end.value == range.start.value + range.size.value;
    return !found;
  });
  if (seen != sys::Seen::all) {
    return fail("the mappings of the agent's process cannot be read", sys::errno_of(seen));
  }
  return found;
}

}  // namespace

Status prove_owner(sys::Uffd uffd, pid_t pid, std::span<const RamBlock> blocks,
                   const sys::Procfs& procfs) {
  const auto largest =
      std::ranges::max_element(blocks, {}, [](const RamBlock& block) { return block.size.value; });
  const std::uint64_t pages = largest == blocks.end() ? 0 : largest->size.value >> kPageShift;
  if (pages < kProofPagesMin) return fail("RAM is too small to prove whose it is", EPROTO);
  // A random range within the block. Neither of its borders is the block's, and one call covers it.
  std::array<std::uint64_t, 2> dice;
  if (::getrandom(dice.data(), sizeof dice, 0) != sizeof dice) return fail_errno("getrandom");
  const std::uint64_t first = 1 + dice[0] % (pages - 2);
  const std::uint64_t count_max =
      std::min(pages - 1 - first, sys::kUffdCallMax.value >> kPageShift);
  const std::uint64_t count = 1 + dice[1] % count_max;
  const sys::UffdRange range{HostVirt{largest->address.value + (first << kPageShift)},
                             ByteCount{count << kPageShift}};
  const auto before = has_mapping(procfs, pid, range);
  if (!before) return std::unexpected(before.error());
  const auto registered = uffd.register_for_guards(range);
  // After an error nothing is unregistered: the range may be another process's memory, and that
  // process may have registered it before.
  if (registered.outcome != sys::Outcome::done) {
    return fail("the userfaultfd does not take the RAM of its sender", registered.code);
  }
  const auto after = has_mapping(procfs, pid, range);
  if (!after) return std::unexpected(after.error());
  if (*before || !*after) {
    return fail("the userfaultfd is not of the process that sent it", EPROTO);
  }
  if (const auto undone = uffd.unregister_range(range); undone.outcome != sys::Outcome::done) {
    return fail("UFFDIO_UNREGISTER after the proof", undone.code);
  }
  return {};
}

}  // namespace ramfold::guest
