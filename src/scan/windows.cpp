// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/windows.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ramfold::scan {

void Window::limit_leaving(std::uint64_t count) noexcept {
  guest::PageMask rest = leaving();
  for (; count != 0 && rest != 0; --count) rest &= rest - 1;
  fold &= ~rest;
  again &= ~rest;
}

void WindowList::put(const guest::Block& block, PageIndex p, Verdict verdict,
                     bool may_map) noexcept {
  if (verdict == Verdict::leave && !may_map) return;
  if (used_ == 0 || p >= into_[used_ - 1].pages.end()) {
    if (used_ == into_.size()) return;
    into_[used_++] = {.pages = window_of(block, p)};
  }
  Window& window = into_[used_ - 1];
  const auto page = guest::PageMask{1} << (p.value - window.pages.first.value);
  if (may_map) window.map |= page;
  switch (verdict) {
    case Verdict::observe: window.observe |= page; break;
    case Verdict::fold: window.fold |= page; break;
    case Verdict::again: window.again |= page; break;
    case Verdict::age: window.age |= page; break;
    case Verdict::leave: break;
  }
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

}  // namespace ramfold::scan
