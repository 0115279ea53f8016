// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/vma_query.hpp"

#include <sys/ioctl.h>
#include <sys/sysmacros.h>

namespace ramfold::sys {
namespace {

// struct procmap_query, newer than the kernel headers we build with.
struct QueryArg {
  std::uint64_t size;
  std::uint64_t query_flags;
  std::uint64_t query_addr;
  std::uint64_t vma_start;
  std::uint64_t vma_end;
  std::uint64_t vma_flags;
  std::uint64_t vma_page_size;
  std::uint64_t vma_offset;
  std::uint64_t inode;
  std::uint32_t dev_major;
  std::uint32_t dev_minor;
  std::uint32_t vma_name_size;
  std::uint32_t build_id_size;
  std::uint64_t vma_name_addr;
  std::uint64_t build_id_addr;
};
static_assert(sizeof(QueryArg) == 104);
constexpr unsigned long kQuery = _IOWR('f', 17, QueryArg);
constexpr std::uint64_t kShared = 8;        // PROCMAP_QUERY_VMA_SHARED
constexpr std::uint64_t kOrNextVma = 0x10;  // PROCMAP_QUERY_COVERING_OR_NEXT_VMA

}  // namespace

Result<std::optional<MappedRange>> VmaQuery::at(HostVirt address) const { return ask(address, 0); }

Result<std::optional<MappedRange>> VmaQuery::at_or_after(HostVirt address) const {
  return ask(address, kOrNextVma);
}

Result<std::optional<MappedRange>> VmaQuery::ask(HostVirt address, std::uint64_t flags) const {
  const auto fd = file_.opened();
  if (!fd) return std::unexpected(fd.error());
  QueryArg arg{};
  arg.size = sizeof arg;
  arg.query_flags = flags;
  arg.query_addr = address.value;
  if (::ioctl(*fd, kQuery, &arg) != 0) {
    if (errno == ENOENT) return std::nullopt;
    return fail("PROCMAP_QUERY (Linux 6.11 or newer is needed)", errno);
  }
  return MappedRange{arg.vma_start,
                     arg.vma_end,
                     arg.vma_offset,
                     arg.inode != 0 ? makedev(arg.dev_major, arg.dev_minor) : 0,
                     static_cast<ino_t>(arg.inode),
                     (arg.vma_flags & kShared) != 0};
}

}  // namespace ramfold::sys
