// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/reform/form_search.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "store/codec/lz4.hpp"
#include "store/mix/mix.hpp"

namespace ramfold::store {

Result<FormSearch> FormSearch::make() {
  auto quick = zstd::Encoder::make(kQuickLevel);
  if (!quick) return std::unexpected(quick.error());
  auto dense = zstd::Encoder::make(kDenseLevel);
  if (!dense) return std::unexpected(dense.error());
  return FormSearch(std::move(*quick), std::move(*dense));
}

void FormSearch::begin(const PageCopy& page, const References& references, const CostModel& costs,
                       double cold_s, std::uint32_t dependents, const Found& now,
                       double gain_min) noexcept {
  page_ = &page;
  references_ = &references;
  costs_ = &costs;
  cold_s_ = cold_s;
  dependents_ = dependents;
  best_ = now;
  improved_ = false;
  shortest_ = alone_ = now.length;
  gain_min_ = gain_min;
  reference_gain_ = 0;
  refers_ = now.reference != kNoReference;
  likeliest_ = kNoReference;
  likeliest_length_ = kPageSize;
  best_bytes_ = &buffers_->encoded[0];
  scratch_ = &buffers_->encoded[1];
}

// A content with dependents cannot get a reference. So a `free` reference costs, besides, the
// memory that it would have gained on average by a reference of its own. This makes one reference
// for many contents cheaper than many references for one content each.
double FormSearch::burden_ns(std::size_t reference) const noexcept {
  constexpr double kGainOnAverage = 0.05;
  if (reference == kNoReference || refers_ || !references_->all[reference].free) return 0;
  return kGainOnAverage * costs_->memory_ns(alone_, cold_s_);
}

// Takes the form if it is the best so far. `bytes` are in the scratch buffer, except those of a raw
// page.
void FormSearch::consider(Shape shape, std::span<const std::byte> bytes,
                          std::size_t reference) noexcept {
  const auto length = static_cast<std::uint32_t>(bytes.size());
  if (length == 0 || (length >= kPageSize && shape.form != Form::raw)) return;
  if (reference == kNoReference) {
    alone_ = std::min(alone_, length);
  } else if (!refers_) {
    if (shape.form == Form::delta && length < likeliest_length_) {
      likeliest_ = reference;
      likeliest_length_ = length;
    }
    const double gain = 1 - static_cast<double>(length) / alone_;
    if (length + kGainMinBytes > alone_) return;
    reference_gain_ = std::max(reference_gain_, gain);
    if (gain < gain_min_) return;
  }
  shortest_ = std::min(shortest_, length);
  std::optional<Shape> decoded_first;
  if (reference != kNoReference) decoded_first = references_->all[reference].shape;
  const double cost =
      costs_->cost_ns(shape, decoded_first, length, cold_s_, dependents_) + burden_ns(reference);
  if (cost >= best_.cost_ns) return;
  best_ = {shape, length, reference, cost};
  improved_ = true;
  if (bytes.data() == scratch_->data()) {
    std::swap(best_bytes_, scratch_);
  } else {
    std::ranges::copy(bytes, best_bytes_->begin());
  }
}

void FormSearch::try_lz4() noexcept {
  const std::span<std::byte> out(scratch_->data(), lz4::kEncodedMax);
  consider({Form::lz4}, out.first(lz4::encode(*page_, out)), kNoReference);
}

void FormSearch::try_patches() noexcept {
  for (std::size_t i = 0; i < references_->alike; ++i) {
    const std::span<std::byte> out(scratch_->data(), kPageSize - 1);
    consider({Form::patch}, out.first(patch::encode(*page_, references_->all[i].page, out)), i);
  }
}

const std::byte* FormSearch::columns_of(Transpose t, const PageCopy& page,
                                        PageCopy& scratch) noexcept {
  if (t == Transpose::none) return page.bytes.data();
  transpose(t, page.bytes.data(), scratch.bytes.data());
  return scratch.bytes.data();
}

void FormSearch::encode_zstd(zstd::Encoder& encoder, Transpose t, std::size_t reference) noexcept {
  const std::byte* const page = columns_of(t, *page_, buffers_->columns);
  const std::byte* const prefix =
      reference == kNoReference
          ? nullptr
          : columns_of(t, references_->all[reference].page, buffers_->reference_columns);
  const std::span<std::byte> out(scratch_->data(), kPageSize - 1);
  consider({prefix == nullptr ? Form::zstd : Form::delta, t},
           out.first(encoder.encode(page, prefix, out)), reference);
}

void FormSearch::try_alone() noexcept {
  for (const Transpose t : {Transpose::none, Transpose::words4, Transpose::words8}) {
    encode_zstd(quick_, t, kNoReference);
  }
}

void FormSearch::try_deltas() noexcept {
  for (std::size_t i = 0; i < references_->count; ++i) encode_zstd(quick_, Transpose::none, i);
  // Transposed, only the likeliest reference is worth the time.
  if (references_->count == 0) return;
  const std::size_t best = best_.reference == kNoReference ? 0 : best_.reference;
  encode_zstd(quick_, Transpose::words4, best);
  encode_zstd(quick_, Transpose::words8, best);
}

// The best delta could gain enough at the higher level: alone_ may be a length of the higher level
// already, and the delta is not.
bool FormSearch::is_near() const noexcept {
  constexpr double kDearerGain = 1.0 / 16;
  return likeliest_ != kNoReference &&
         likeliest_length_ * (1 - kDearerGain) < alone_ * (1 - gain_min_);
}

void FormSearch::try_densest() noexcept {
  const Found quick = best_;
  if (quick.shape.form == Form::zstd || quick.shape.form == Form::delta)
    encode_zstd(dense_, quick.shape.transpose, quick.reference);
  if (quick.reference == kNoReference && is_near())
    encode_zstd(dense_, Transpose::none, likeliest_);
}

void FormSearch::try_mix() noexcept {
  const std::size_t reference = best_.reference;
  const bool alone = reference == kNoReference;
  const std::span<std::byte> out(scratch_->data(), kPageSize - 1);
  const std::uint32_t length = mix::encode(
      page_->bytes.data(), alone ? nullptr : references_->all[reference].page.bytes.data(), out);
  consider({alone ? Form::mix : Form::mix_delta}, out.first(length), reference);
}

}  // namespace ramfold::store
