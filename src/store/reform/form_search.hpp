// SPDX-License-Identifier: GPL-2.0-or-later
// Searches for the cheapest form of one page. Each try_...() encodes the page in some forms; the
// best form so far is kept.
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

// The candidates for a reference in one search: private copies of live contents. First come up to
// four contents that resemble the page; more of them gain nothing. In the last search up to two
// neighbours of the page follow (Reformer).
struct References {
  static constexpr std::size_t kAlikeMax = 4;
  static constexpr std::size_t kBesideMax = 2;
  static constexpr std::size_t kMax = kAlikeMax + kBesideMax + 1;  // one more while comparing

  struct One {
    ContentId id;
    bool free = false;     // it could still get a reference of its own
    unsigned overlap = 0;  // of a neighbour: how much it has in common with the page
    Shape shape;           // of the stored candidate
    PageCopy page;
  };
  std::array<One, kMax> all;
  std::size_t count = 0;
  std::size_t alike = 0;  // all[0, alike) resemble the page; the others are neighbours

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

  // The form that the content has now, or the best form that was found.
  struct Found {
    Shape shape;
    std::uint32_t length = 0;
    std::size_t reference = kNoReference;  // of References
    double cost_ns = 0;
  };

  static Result<FormSearch> make();

  // `now`: the present form, which a new form must beat. Unless `now` has a reference already, a
  // form with a reference must satisfy
  //
  //   length <= (1 - gain_min) * shortest length without a reference
  //
  // REQUIRES: page, references and costs outlive the search.
  void begin(const PageCopy& page, const References& references, const CostModel& costs,
             double cold_s, std::uint32_t dependents, const Found& now, double gain_min) noexcept;
  void try_raw() noexcept { consider({Form::raw}, page_->bytes, kNoReference); }
  void try_lz4() noexcept;
  // Patches against the candidates that resemble the page. Not against neighbours: those have words
  // in common with the page, but no long runs of bytes.
  void try_patches() noexcept;
  // zstd without a reference, of the page as it is and transposed.
  void try_alone() noexcept;
  // zstd with every candidate as reference; and transposed, with the likeliest one.
  void try_deltas() noexcept;
  // The best shape so far again at the higher level, if it is zstd or delta; and a delta with the
  // likeliest reference, if the higher level could make it the best.
  void try_densest() noexcept;
  // Mixed contexts, with the reference of the best form so far, or without one if that has none.
  void try_mix() noexcept;

  // The least length of all forms since begin(), `now` included, even if the form costs too much.
  // Without forms whose reference gained too little.
  std::uint32_t shortest() const noexcept { return shortest_; }
  // The gain of the best reference, taken or not: 1 - length / shortest length without a reference;
  // 0: none.
  double reference_gain() const noexcept { return reference_gain_; }
  // The best form so far has a reference, or the higher level could make a form with a reference
  // the best.
  bool may_refer() const noexcept { return best_.reference != kNoReference || is_near(); }
  // A form was found that is cheaper than `now`.
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
  std::uint32_t alone_ = 0;  // least length without a reference
  bool refers_ = false;      // `now` has a reference
  std::size_t likeliest_ = kNoReference;
  std::uint32_t likeliest_length_ = 0;  // of its delta at the lower level
  std::uint32_t shortest_ = 0;
  bool improved_ = false;
};

}  // namespace ramfold::store
