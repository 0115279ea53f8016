// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/attach_check.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "guest/ram_mapping.hpp"

namespace ramfold::guest {
namespace {

// What would make fallocate(PUNCH_HOLE) or UFFDIO_COPY fail later.
constexpr int kSealsAgainstFolding = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;

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
  // First of all, because the kernel answers it by itself: only memory files have seals. A file of
  // the agent's own FUSE server would get to answer fstat, or not to.
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

}  // namespace ramfold::guest
