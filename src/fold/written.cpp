// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/written.hpp"

#include <array>
#include <cerrno>

#include "fold/mask.hpp"

namespace ramfold::fold {

Result<guest::PageMask> written_pages(const guest::Vm& vm, PageRun run, guest::PageMask mapped) {
  if (run.count > guest::kProofPagesMax) return fail("so many pages at a time", EINVAL);
  std::array<sys::PageRegion, guest::kProofPagesMax.value> regions;
  HostVirt walked{};
  const sys::UffdRange range = vm.range_of(run);
  const auto n = vm.pagemap().scan(range, 0, sys::kPageFile | sys::kPagePresent | sys::kPageSwapped,
                                   regions, walked);
  if (!n) return std::unexpected(n.error());
  guest::PageMask written = 0;
  for (std::size_t r = 0; r < *n; ++r) {
    const std::uint64_t has = regions[r].categories;
    if ((has & sys::kPageFile) != 0 || (has & (sys::kPagePresent | sys::kPageSwapped)) == 0)
      continue;
    written |= pages_of(regions[r], range);
  }
  return static_cast<guest::PageMask>(written & mapped);
}

}  // namespace ramfold::fold
