// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/referenced.hpp"

#include <algorithm>

namespace ramfold::scan {
namespace {

using guest::Tag;

// MADV_DONTNEED of so many pages holds QEMU's mmap_lock for 130 us on a busy machine.
constexpr PageCount kRunPagesMax{256};

// Questions are about pieces of so many pages: neighbours are touched together.
constexpr std::uint64_t kPiecePages = 16;
PageRun piece_of(const guest::Block& block, PageIndex p) noexcept {
  const std::uint64_t start = p.value / kPiecePages * kPiecePages;
  const std::uint64_t first = std::max(start, block.first.value);
  return {PageIndex{first}, PageCount{std::min(start + kPiecePages, block.end().value) - first}};
}

bool is_worth_asking(const guest::Vm& vm, const SeenPage& seen) noexcept {
  if (!seen.mapped) return false;
  const guest::LoadedWord word = vm.table().load(seen.page);
  if (!word) return false;
  return word->tag() == Tag::clean || (word->tag() == Tag::observed && word->age() != 0);
}

// The agent forgets nothing of a run in which a page maps the pool: a copy would be lost.
bool any_maps_pool(const guest::Vm& vm, PageRun piece) noexcept {
  for (PageIndex p = piece.first; p < piece.end(); ++p.value) {
    const guest::LoadedWord word = vm.table().load(p);
    if (word && word->tag() == Tag::mapped) return true;
  }
  return false;
}

// False: there is no room for it.
bool add(Question& question, const guest::Block& block, PageRun piece) noexcept {
  if (question.count != 0) {
    PageRun& last = question.runs[question.count - 1];
    if (last.end() == piece.first && piece.first != block.first &&
        last.count.value + piece.count.value <= kRunPagesMax.value) {
      last.count = PageCount{last.count.value + piece.count.value};
      return true;
    }
  }
  if (question.count == question.runs.size()) return false;
  question.runs[question.count++] = piece;
  return true;
}

}  // namespace

Question choose(const guest::Vm& vm, std::span<const SeenPage> seen, const Sampling& sampling) {
  Question question;
  for (std::size_t i = 0; i < seen.size();) {
    const guest::Block& block = vm.block_of(seen[i].page);
    const PageRun piece = piece_of(block, seen[i].page);
    std::uint64_t mapped = 0;
    bool is_worth = false;
    for (; i < seen.size() && seen[i].page < piece.end(); ++i) {
      mapped += seen[i].mapped;
      is_worth = is_worth || is_worth_asking(vm, seen[i]);
    }
    if (!is_worth || any_maps_pool(vm, piece)) continue;
    question.candidates += mapped;
    if (sampling.takes(piece.first, vm.pass_now()) && add(question, block, piece))
      question.pages += mapped;
  }
  return question;
}

}  // namespace ramfold::scan
