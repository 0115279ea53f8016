// SPDX-License-Identifier: GPL-2.0-or-later
// The cheapest form of one page: encodes it this way and that and keeps the best so far.
// Threads: belongs to one.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "store/codec/forms.hpp"
#include "store/codec/zstd.hpp"
#include "store/patch/patch.hpp"
#include "store/reform/cost_model.hpp"
#include "store/similarity/similarity_index.hpp"

namespace ramfold::store {

// What pages may refer to in one search: private copies of live contents. More than four of those
// that have most in common with a page find nothing better; the last of its searches tries two of
// its neighbours besides (Reformer).
struct References {
  static constexpr std::size_t kAlikeMax = 4;
  static constexpr std::size_t kBesideMax = 2;
  static constexpr std::size_t kMax = kAlikeMax + kBesideMax + 1;  // one more is looked at

  struct One {
    ContentId id;
    bool free = false;     // it refers to none, but may come to
    unsigned overlap = 0;  // of a neighbour: what it has in common with the page
    Shape shape;           // in which it is kept
    PageCopy page;
  };
  std::array<One, kMax> all;
  std::size_t count = 0;
  std::size_t alike = 0;  // the first of them; the others are neighbours

  bool has(ContentId id) const noexcept {
    return std::any_of(all.begin(), all.begin() + count,
                       [id](const One& one) { return one.id == id; });
  }
};

class FormSearch {
 public:
  static constexpr int kQuickLevel = 3;
  static constexpr int kDenseLevel = 12;
  static constexpr std::size_t kNoReference = ~std::size_t{0};
  static constexpr std::uint32_t kGainMinBytes = 8;  // a reference is not kept for less

  // How it is kept now, or the best that was found.
  struct Found {
    Shape shape;
    std::uint32_t length = 0;
    std::size_t reference = kNoReference;  // of References
    double cost_ns = 0;
  };

  static Result<FormSearch> make();

  // `now`: what must be beaten. A form with a reference is taken if it is shorter than the shortest
  // without one by more than the share `gain_min` of that, unless `now` has one already. REQUIRES:
  // page, references and costs outlive the search.
  void begin(const PageCopy& page, const References& references, const CostModel& costs,
             double cold_s, std::uint32_t dependents, const Found& now, double gain_min) noexcept;
  void try_raw() noexcept { consider({Form::raw}, page_->bytes, kNoReference); }
  void try_lz4() noexcept;
  // Not against neighbours: with them it has words in common, not lines.
  void try_patches() noexcept;
  // zstd's alone, as it is and transposed.
  void try_alone() noexcept;
  // zstd's against every reference, and transposed where that may win.
  void try_deltas() noexcept;
  // The best shape so far once more, if it is zstd's, at the dearest level; and the likeliest
  // reference, if that could win by it.
  void try_densest() noexcept;
  // With the reference of the best so far, or without one as that is.
  void try_mix() noexcept;

  // Of all that were tried since begin(), but for references that gained too little, and of what
  // was there; wanted or not.
  std::uint32_t shortest() const noexcept { return shortest_; }
  // What the best reference gains, taken or not: a share of the shortest without one; 0: nothing.
  double reference_gain() const noexcept { return reference_gain_; }
  // A reference is the best so far, or so near that a dearer encoder may make it so.
  bool may_refer() const noexcept { return best_.reference != kNoReference || is_near(); }
  // Something is cheaper than what was there at the beginning.
  bool improved() const noexcept { return improved_; }
  const Found& best() const noexcept { return best_; }
  // REQUIRES: improved().
  std::span<const std::byte> bytes() const noexcept { return {best_bytes_->data(), best_.length}; }

 private:
  using Buffer = std::array<std::byte, patch::kPatchMax + 1>;

  FormSearch(zstd::Encoder quick, zstd::Encoder dense)
      : quick_(std::move(quick)), dense_(std::move(dense)), buffers_(std::make_unique<Buffers>()) {}

  void encode_zstd(zstd::Encoder& encoder, Transpose transpose, std::size_t reference) noexcept;
  void consider(Shape shape, std::span<const std::byte> bytes, std::size_t reference) noexcept;
  const std::byte* columns_of(Transpose transpose, const PageCopy& page,
                              PageCopy& scratch) noexcept;
  bool is_near() const noexcept;
  double burden_ns(std::size_t reference) const noexcept;

  struct Buffers {
    std::array<Buffer, 2> encoded;
    PageCopy columns;
    PageCopy reference_columns;
  };

  zstd::Encoder quick_;
  zstd::Encoder dense_;
  std::unique_ptr<Buffers> buffers_;
  Buffer* best_bytes_ = nullptr;
  Buffer* scratch_ = nullptr;
  const PageCopy* page_ = nullptr;
  const References* references_ = nullptr;
  const CostModel* costs_ = nullptr;
  double cold_s_ = 0;
  std::uint32_t dependents_ = 0;
  Found best_;
  double gain_min_ = 0;
  double reference_gain_ = 0;
  std::uint32_t alone_ = 0;  // the shortest without a reference
  bool refers_ = false;      // what was there did
  std::size_t likeliest_ = kNoReference;
  std::uint32_t likeliest_length_ = 0;  // of its delta by the quick encoder
  std::uint32_t shortest_ = 0;
  bool improved_ = false;
};

}  // namespace ramfold::store
