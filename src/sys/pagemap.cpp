// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/pagemap.hpp"

#include <sys/ioctl.h>

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

}  // namespace

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
