// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/plan.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ramfold::scan {

using guest::Tag;

unsigned ColdRule::need(guest::Word word) const noexcept {
  return std::min({passes << word.backoff(), passes_max, guest::Word::kAgeMax});
}

bool ColdRule::holds_back(guest::Word word) const noexcept {
  const Tag tag = word.tag();
  const bool candidate = tag == Tag::none || tag == Tag::observed || tag == Tag::clean;
  return candidate && need(word) > passes;
}

Verdict ColdRule::judge(guest::Word word, bool guarded) const noexcept {
  const bool cold = word.age() + 1 >= need(word);
  switch (word.tag()) {
    case Tag::none: return need(word) == 0 ? Verdict::fold : Verdict::observe;
    case Tag::observed: return cold ? Verdict::fold : Verdict::observe;
    case Tag::clean:
      if (!guarded) return Verdict::observe;
      return cold ? Verdict::again : Verdict::age;
    case Tag::folded:
      // The page is present although the word says folded: a crash came between word and punch.
      // While it is guarded, it equals its content (T4).
      return guarded ? Verdict::again : Verdict::leave;
    case Tag::mapped:
    case Tag::poisoned: break;
  }
  return Verdict::leave;
}

std::size_t chunk_count(const guest::Vm& vm) noexcept {
  return (vm.pages().value + guest::kChunkPages.value - 1) / guest::kChunkPages.value;
}

std::size_t next_backed_chunk(const guest::Vm& vm, std::size_t chunk) noexcept {
  const PageIndex page{chunk * guest::kChunkPages.value};
  for (const guest::Block& block : vm.blocks()) {
    if (block.end() <= page) continue;
    const PageIndex from = std::max(page, block.first);
    const std::uint64_t at = block.offset.value + ((from.value - block.first.value) << kPageShift);
    const off_t data = ::lseek(vm.files().rams[block.ram].get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return chunk;
    if (data < 0) continue;  // no more of it in this file
    const std::uint64_t ahead = (static_cast<std::uint64_t>(data) - at) >> kPageShift;
    if (from.value + ahead >= block.end().value) continue;
    return (from.value + ahead) / guest::kChunkPages.value;
  }
  return chunk_count(vm);
}

std::size_t next_noted_chunk(const guest::Vm& vm, std::size_t chunk) noexcept {
  const std::uint64_t page = vm.backed_from(chunk * guest::kChunkPages.value);
  return page == vm.pages().value ? chunk_count(vm) : page / guest::kChunkPages.value;
}

Result<std::size_t> Planner::plan(const guest::Vm& vm, std::size_t chunk, const ColdRule& rule,
                                  std::span<Window, kChunkWindows> into) {
  std::size_t used = 0;
  met_ = {};
  const PageIndex first{chunk * guest::kChunkPages.value};
  const PageIndex end{std::min(first.value + guest::kChunkPages.value, vm.pages().value)};
  for (const guest::Block& block : vm.blocks()) {
    const PageIndex from = std::max(first, block.first);
    const PageIndex to = std::min(end, block.end());
    if (from >= to) continue;
    const HostVirt base = vm.address_of(from);
    const HostVirt stop{base.value + ((to.value - from.value) << kPageShift)};
    for (HostVirt at = base; at < stop;) {
      const auto n =
          vm.pagemap().scan({at, ByteCount{stop.value - at.value}}, sys::kPagePresent,
                            sys::kPagePresent | sys::kPageWritten | sys::kPageHuge, regions_, at);
      if (!n) return std::unexpected(n.error());
      for (std::size_t r = 0; r < *n; ++r) {
        const sys::PageRegion& region = regions_[r];
        // Large folios are left alone: a punch into one may zero a page and leave it present (D7).
        if ((region.categories & sys::kPageHuge) != 0) continue;
        const bool guarded = (region.categories & sys::kPageWritten) == 0;
        for (std::uint64_t va = region.start; va < region.end; va += kPageSize) {
          const PageIndex p{from.value + ((va - base.value) >> kPageShift)};
          const guest::LoadedWord word = vm.table().load(p);
          ++met_.present;
          if (word && rule.holds_back(*word)) ++met_.held;
          // A damaged word: to observe the page writes a new one.
          const Verdict verdict = word ? rule.judge(*word, guarded) : Verdict::observe;
          if (verdict == Verdict::leave) continue;
          if (used == 0 || p >= into[used - 1].pages.end()) {
            const std::uint64_t start = p.value / kWindowPages * kWindowPages;
            const std::uint64_t window_first = std::max(start, block.first.value);
            const std::uint64_t window_end = std::min(start + kWindowPages, block.end().value);
            if (used == into.size()) return used;
            into[used++] = {
                {PageIndex{window_first}, PageCount{window_end - window_first}}, 0, 0, 0, 0};
          }
          Window& w = into[used - 1];
          const auto bit = static_cast<std::uint16_t>(1u << (p.value - w.pages.first.value));
          switch (verdict) {
            case Verdict::observe: w.observe |= bit; break;
            case Verdict::fold: w.fold |= bit; break;
            case Verdict::again: w.again |= bit; break;
            case Verdict::age: w.age |= bit; break;
            case Verdict::leave: break;
          }
        }
      }
      if (*n < regions_.size() && at < stop) at = stop;
    }
  }
  return used;
}

}  // namespace ramfold::scan
