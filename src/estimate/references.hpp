// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages would be kept as a patch against another, found the way a store finds them: pages
// come one after another, a page that resembles one already there becomes a patch, any other may be
// a reference from then on. So no patch is told by a patch. Threads: one owner.
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
  // Gives the bytes of a page that came before; false when they are not to be had any more.
  using Reader = std::function<bool(ContentId, PageCopy&)>;

  // An upper bound of how many pages come; memory comes as they do.
  static constexpr std::uint32_t kPagesMax = 1u << 26;
  static Result<References> make(Reader reader);

  // The size of the smallest useful patch, in bytes; 0 when there is none, and the page may be a
  // reference for those that come later. Useful: at most three quarters of `otherwise`, the bytes
  // it would take without. REQUIRES: `id` was not given before.
  std::uint16_t patch_size(ContentId id, const PageCopy& page, const store::Sketch& sketch,
                           std::uint16_t otherwise);

 private:
  References(Reader reader, std::unique_ptr<store::SimilarityIndex> index)
      : reader_(std::move(reader)), index_(std::move(index)) {}

  Reader reader_;
  std::unique_ptr<store::SimilarityIndex> index_;
};

}  // namespace ramfold::estimate
