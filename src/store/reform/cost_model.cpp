// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/reform/cost_model.hpp"

#include <algorithm>

#include "store/arena/size_classes.hpp"
#include "store/where.hpp"

namespace ramfold::store {

namespace {

// The other means at the start: measured on the same pages as kTypicalDecodeNs.
struct AtFirst {
  double reference_ns;
  CostModel::ByStage<double> attempt_ns;
  CostModel::ByStage<CostModel::ByForm<double>> gain_bytes;
};
constexpr AtFirst kAtFirst = {
    .reference_ns = 6'000,
    .attempt_ns = {0, 20'000, 140'000, 300'000, 900'000},
    //               zero  raw  lz4  zstd  patch  delta  mix  mix_delta
    .gain_bytes = {{{},
                    {0, 300, 300, 100, 0, 0, 0, 0},
                    {0, 400, 600, 40, 80, 0, 0, 0},
                    {0, 100, 100, 50, 50, 20, 0, 0},
                    {0, 40, 100, 130, 25, 80, 0, 0}}},
};

// The form that a stage leads to in most cases.
constexpr Form form_of(Stage stage) noexcept {
  if (stage == Stage::mixed) return Form::mix;
  return stage == Stage::patched ? Form::patch : Form::zstd;
}

}  // namespace

CostModel::CostModel() noexcept {
  const auto store = [](const auto& from, auto& to) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i].store(from[i], std::memory_order_relaxed);
  };
  store(kTypicalDecodeNs, decode_ns_);
  store(kTypicalDecodeColumnsNs, decode_columns_ns_);
  reference_ns_.store(kAtFirst.reference_ns, std::memory_order_relaxed);
  store(kAtFirst.attempt_ns, attempt_ns_);
  for (std::size_t i = 0; i < kStages; ++i) {
    for (std::size_t form = 0; form < kForms; ++form) {
      for (Mean& gain : gain_bytes_[i][form]) {
        gain.store(kAtFirst.gain_bytes[i][form], std::memory_order_relaxed);
      }
    }
  }
}

double CostModel::byte_second_ns() const noexcept {
  constexpr double kGib = 1024.0 * 1024 * 1024;
  return cpu_s_per_gib_hour_.load(std::memory_order_relaxed) * 1e9 / kGib / 3600;
}

double CostModel::wait_ns(double decode_ns, std::uint32_t dependents) const noexcept {
  return decode_ns * (1 + dependents) * wait_weight_.load(std::memory_order_relaxed);
}

double CostModel::memory_ns(std::uint32_t length, double cold_s) const noexcept {
  const double slot = kSizeClasses.of[class_of(length)].bytes;
  return slot * cold_s * byte_second_ns();
}

double CostModel::cost_ns(Shape shape, std::optional<Shape> reference, std::uint32_t length,
                          double cold_s, std::uint32_t dependents) const noexcept {
  const double of_reference = reference ? decode_ns(*reference) : 0;
  return memory_ns(length, cold_s) + wait_ns(decode_ns(shape) + of_reference, dependents);
}

double CostModel::pays_after_s(Stage stage, Shape shape, std::size_t band,
                               std::uint32_t dependents) const noexcept {
  // Contents change. So a small gain is assumed even where attempts have gained nothing for long.
  constexpr double kGainMin = 8;
  const double gain =
      gain_bytes_[index(stage)][index(shape.form)][band].load(std::memory_order_relaxed);
  // A content with a reference keeps it. For a new patch the reference is not known yet, so the
  // mean of taken references is used.
  const bool refers = needs_reference(form_of(stage)) && !needs_reference(shape.form);
  const double then =
      decode_ns({form_of(stage)}) + (refers ? reference_ns_.load(std::memory_order_relaxed) : 0);
  const double longer = wait_ns(then - decode_ns(shape), dependents);
  const double price =
      attempt_ns_[index(stage)].load(std::memory_order_relaxed) + std::max(longer, 0.0);
  return price / (std::max(gain, kGainMin) * byte_second_ns());
}

double CostModel::decode_ns(Shape shape) const noexcept {
  return mean_of(shape, decode_ns_, decode_columns_ns_).load(std::memory_order_relaxed);
}

void CostModel::learn_decode(Shape shape, double ns) noexcept {
  learn_time(mean_of(shape, decode_ns_, decode_columns_ns_), ns);
}

void CostModel::learn(Mean& mean, double value, double share) noexcept {
  const double old = mean.load(std::memory_order_relaxed);
  mean.store(old + share * (value - old), std::memory_order_relaxed);
}

void CostModel::learn_time(Mean& mean, double ns) noexcept {
  constexpr double kFar = 8;
  learn(mean, std::min(ns, kFar * mean.load(std::memory_order_relaxed)), kTimeShare);
}

CostModel::Figures CostModel::figures() const noexcept {
  Figures f;
  const auto load = [](const auto& from, auto& to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[i].load(std::memory_order_relaxed);
  };
  load(decode_ns_, f.decode_ns);
  load(decode_columns_ns_, f.decode_columns_ns);
  load(attempt_ns_, f.attempt_ns);
  for (std::size_t i = 0; i < kStages; ++i) {
    for (std::size_t form = 0; form < kForms; ++form) {
      load(gain_bytes_[i][form], f.gain_bytes[i][form]);
      for (std::size_t band = 0; band < kLengthBands; ++band) {
        f.pays_after_s[i][form][band] =
            pays_after_s(static_cast<Stage>(i), {static_cast<Form>(form)}, band, 0);
      }
    }
  }
  return f;
}

}  // namespace ramfold::store
