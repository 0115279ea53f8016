// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/references.hpp"

#include <algorithm>
#include <array>

#include "store/patch/patch.hpp"

namespace ramfold::estimate {

Result<References> References::make(Reader reader) {
  auto index = store::SimilarityIndex::make(kPagesMax);
  if (!index) return std::unexpected(index.error());
  return References(std::move(reader), std::move(*index));
}

std::uint16_t References::patch_size(ContentId id, const PageCopy& page,
                                     const store::Sketch& sketch, std::uint16_t otherwise) {
  // `out` has no room for patches longer than the best so far, so such a patch ends early.
  std::array<std::byte, kPageSize> out;
  std::size_t best = std::size_t{otherwise} * 3 / 4 + 1;
  bool found = false;
  PageCopy reference;
  const store::SimilarityIndex::Candidates candidates = index_->find(sketch);
  for (const ContentId candidate : candidates.all()) {
    if (!reader_(candidate, reference)) continue;
    const std::uint32_t size =
        store::patch::encode(page, reference, std::span(out).first(best - 1));
    if (size == 0) continue;
    found = true;
    best = size;
    if (best == 1) break;
  }
  if (found) return static_cast<std::uint16_t>(best);
  index_->insert(sketch, id);
  return 0;
}

}  // namespace ramfold::estimate
