// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/pagemap.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

namespace ramfold::sys {
namespace {

// struct pm_scan_arg, newer than the kernel headers we build with.
struct ScanArg {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanArg) == 96);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArg);

// An entry of the file: 8 bytes a page.
constexpr std::uint64_t kEntryPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kEntryFrame = (std::uint64_t{1} << 55) - 1;

}  // namespace

Status read_frames(BorrowedFd pagemap, UffdRange range, std::span<std::uint64_t> into) {
  const std::uint64_t pages = range.size.value >> kPageShift;
  const std::size_t wanted = pages * sizeof(std::uint64_t);
  const auto at = static_cast<off_t>((range.start.value >> kPageShift) * sizeof(std::uint64_t));
  const ssize_t got = ::pread(pagemap.get(), into.data(), wanted, at);
  if (got < 0) return fail_errno("read /proc/PID/pagemap");
  if (static_cast<std::size_t>(got) != wanted) return fail("read /proc/PID/pagemap", ESRCH);
  for (std::uint64_t& entry : into.first(pages))
    entry = (entry & kEntryPresent) != 0 ? entry & kEntryFrame : 0;
  return {};
}

Status Pagemap::frames(UffdRange range, std::span<std::uint64_t> into) const {
  const auto fd = file_.opened();
  if (!fd) return std::unexpected(fd.error());
  return read_frames(BorrowedFd(*fd), range, into);
}

Result<std::size_t> Pagemap::scan(UffdRange range, std::uint64_t required, std::uint64_t returned,
                                  std::span<PageRegion> into, HostVirt& walked) const {
  ScanArg arg{};
  arg.size = sizeof arg;
  arg.start = range.start.value;
  arg.end = range.start.value + range.size.value;
  arg.vec = reinterpret_cast<std::uintptr_t>(into.data());
  arg.vec_len = into.size();
  arg.category_mask = required;
  arg.return_mask = returned;
  const auto fd = file_.opened();
  if (!fd) return std::unexpected(fd.error());
  const int error = injected(Call::scan);
  const int n = error != 0 ? -1 : ::ioctl(*fd, kPagemapScan, &arg);
  if (n < 0) return fail("PAGEMAP_SCAN (Linux 6.7 or newer is needed)", error != 0 ? error : errno);
  walked = HostVirt{arg.walk_end};
  return static_cast<std::size_t>(n);
}

}  // namespace ramfold::sys
