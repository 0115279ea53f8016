// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the pages that would be kept as patches, in the way of the store. Pages come one after the
// other. A page that resembles an earlier reference becomes a patch; every other page may be a
// reference from then on. So no patch refers to a patch.
// Threads: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"
#include "store/similarity/similarity_index.hpp"

namespace ramfold::estimate {

class References {
 public:
  // Reads a page that came before; false when it can no longer be read.
  using Reader = std::function<bool(ContentId, PageCopy&)>;

  // The most pages that may come. Memory is taken as they come.
  static constexpr std::uint32_t kPagesMax = 1u << 26;
  static Result<References> make(Reader reader);

  // The size in bytes of the smallest useful patch. 0: there is none, and the page may be a
  // reference for later pages. A patch is useful when size <= 3/4 * otherwise, where `otherwise`
  // are the bytes that the page takes without a patch. REQUIRES: `id` was not given before.
  std::uint16_t patch_size(ContentId id, const PageCopy& page, const store::Sketch& sketch,
                           std::uint16_t otherwise);

 private:
  References(Reader reader, std::unique_ptr<store::SimilarityIndex> index)
      : reader_(std::move(reader)), index_(std::move(index)) {}

  Reader reader_;
  std::unique_ptr<store::SimilarityIndex> index_;
};

}  // namespace ramfold::estimate
