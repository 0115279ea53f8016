// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/sight.hpp"

#include <algorithm>

namespace ramfold::scan {
namespace {

using guest::Tag;

// The page may be in the RAM file though QEMU's page table has no entry for it.
bool may_be_there(const guest::Vm& vm, PageIndex p, const History* history) noexcept {
  const guest::LoadedWord word = vm.table().load(p);
  if (!word) return true;
  switch (word->tag()) {
    case Tag::observed:
    case Tag::clean: return true;
    case Tag::none: return history != nullptr && history->is_asked(p);
    case Tag::folded:
    case Tag::mapped:
    case Tag::poisoned: break;
  }
  return false;
}

}  // namespace

Result<std::span<const SeenPage>> Sight::look(guest::Vm& vm, std::size_t chunk,
                                              const History* history) {
  count_ = 0;
  const PageIndex first{chunk * guest::kChunkPages.value};
  const PageIndex end{std::min(first.value + guest::kChunkPages.value, vm.pages().value)};
  for (const guest::Block& block : vm.blocks()) {
    const PageIndex from = std::max(first, block.first);
    const PageIndex to = std::min(end, block.end());
    if (from >= to) continue;
    const HostVirt base = vm.address_of(from);
    const HostVirt stop{base.value + ((to.value - from.value) << kPageShift)};
    const auto page_at = [&](std::uint64_t va) {
      return PageIndex{from.value + ((va - base.value) >> kPageShift)};
    };
    for (HostVirt at = base; at < stop;) {
      const HostVirt began = at;
      const auto n = vm.pagemap().scan(
          {at, ByteCount{stop.value - at.value}}, 0,
          sys::kPagePresent | sys::kPageSwapped | sys::kPageWritten | sys::kPageHuge, regions_, at);
      if (!n) return std::unexpected(n.error());
      for (std::size_t r = 0; r < *n; ++r) {
        const sys::PageRegion& region = regions_[r];
        // Large folios are left alone: a punch into one may zero a page and leave it present (D7).
        if ((region.categories & sys::kPageHuge) != 0) continue;
        const bool mapped = (region.categories & sys::kPagePresent) != 0;
        // A place without an entry and without a marker shows as neither present nor swapped.
        const bool guarded = (region.categories & sys::kPageWritten) == 0 &&
                             (region.categories & (sys::kPagePresent | sys::kPageSwapped)) != 0;
        if (!mapped) {
          look_behind(vm, page_at(region.start), page_at(region.end), guarded, history);
          continue;
        }
        for (PageIndex p = page_at(region.start); p < page_at(region.end); ++p.value)
          seen_[count_++] = {p, true, guarded};
      }
      if (at == began || (*n < regions_.size() && at < stop)) at = stop;
    }
  }
  return std::span<const SeenPage>(seen_).first(count_);
}

void Sight::look_behind(guest::Vm& vm, PageIndex from, PageIndex to, bool guarded,
                        const History* history) noexcept {
  for (PageIndex at = from; at < to;) {
    if (!may_be_there(vm, at, history)) {
      ++at.value;
      continue;
    }
    const PageCount count{std::min(guest::kProofPagesMax.value, to.value - at.value)};
    const guest::PageMask there = proof_.ask(vm, {at, count}, 0).resident;
    for (std::uint64_t i = 0; i < count.value; ++i) {
      const PageIndex p{at.value + i};
      if ((there >> i & 1) != 0 && may_be_there(vm, p, history))
        seen_[count_++] = {p, false, guarded};
    }
    at = at + count;
  }
}

}  // namespace ramfold::scan
