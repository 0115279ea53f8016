// SPDX-License-Identifier: GPL-2.0-or-later
// The cost of a form, in nanoseconds of CPU:
//
//   cost = memory_ns(length, cold_s)                             its memory while it stays cold
//        + wait_weight * (1 + dependents) * (decode + decode of the reference)
//
// A content that was cold for cold_s seconds is expected to stay cold for as long again, and to be
// read once in that time; each dependent reads it once, too. The model learns means from what was
// done: the time to decode a form (without its reference, whose form is known when a form is
// judged), the time of an attempt, and the bytes that an attempt gains.
// Threads: one writes; figures() from any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "store/codec/forms.hpp"
#include "store/content_notes.hpp"
#include "store/form.hpp"

namespace ramfold::store {

// The prices of memory and of waiting.
struct Economy {
  // One GiB that is kept free for an hour is worth this many CPU seconds.
  double cpu_s_per_gib_hour = 3600;
  // One nanosecond that a guest waits costs this many nanoseconds of CPU.
  double wait_weight = 4;
};

inline constexpr std::size_t kStages = 5;

// Nanoseconds to decode a page of each form, without its reference: measured on pages of Debian
// guests, with a core of 2020. The model's means begin with these.
inline constexpr std::array<double, kForms> kTypicalDecodeNs{0,     300,   1'200,   6'000,
                                                             1'300, 6'500, 160'000, 170'000};
inline constexpr std::array<double, kForms> kTypicalDecodeColumnsNs{0, 0, 0, 4'500, 0, 4'500, 0, 0};
constexpr double typical_decode_ns(Shape shape) noexcept {
  return (shape.transpose == Transpose::none
              ? kTypicalDecodeNs
              : kTypicalDecodeColumnsNs)[static_cast<std::size_t>(shape.form)];
}

// The gain of attempts is learnt separately for each band of lengths. Long contents are pages that
// hardly compress; such pages come one after the other, and attempts gain nothing with them.
inline constexpr std::size_t kLengthBands = 8;
constexpr std::size_t band_of(std::uint32_t length) noexcept {
  return length == 0 ? 0 : std::size_t{length - 1} * kLengthBands / kPageSize;
}

class CostModel {
 public:
  template <typename T>
  using ByForm = std::array<T, kForms>;
  template <typename T>
  using ByStage = std::array<T, kStages>;
  template <typename T>
  using ByBand = std::array<T, kLengthBands>;

  struct Figures {
    ByForm<double> decode_ns{};          // pages that are not transposed; without the reference
    ByForm<double> decode_columns_ns{};  // transposed pages; without the reference
    ByStage<double> attempt_ns{};        // CPU time of an attempt, by the stage that it leads to
    // The gain of an attempt, and how long a content must be cold for it, by the form and length
    // that the attempt begins with.
    ByStage<ByForm<ByBand<double>>> gain_bytes{};
    ByStage<ByForm<ByBand<double>>> pays_after_s{};

    double decode_ns_of(Shape shape) const noexcept {
      return mean_of(shape, decode_ns, decode_columns_ns);
    }
  };

  CostModel() noexcept;
  void set_economy(const Economy& economy) noexcept {
    cpu_s_per_gib_hour_.store(economy.cpu_s_per_gib_hour, std::memory_order_relaxed);
    wait_weight_.store(economy.wait_weight, std::memory_order_relaxed);
  }

  // The cost of the slot for `length` encoded bytes during cold_s seconds.
  double memory_ns(std::uint32_t length, double cold_s) const noexcept;
  // The cost of keeping a content of `length` encoded bytes: its memory, and the waits of its
  // readers. `reference`: the shape of its reference, which readers decode first.
  double cost_ns(Shape shape, std::optional<Shape> reference, std::uint32_t length, double cold_s,
                 std::uint32_t dependents) const noexcept;
  // An attempt to bring a content of this shape and length to this stage is expected to gain more
  // than the attempt and the longer waits cost.
  bool pays(Stage stage, Shape shape, std::uint32_t length, double cold_s,
            std::uint32_t dependents) const noexcept {
    return cold_s > pays_after_s(stage, shape, band_of(length), dependents);
  }

  // Seconds for which a content must have been cold so that an attempt pays.
  double pays_after_s(Stage stage, Shape shape, std::size_t band,
                      std::uint32_t dependents) const noexcept;

  // `ns`: without the time to decode the reference.
  void learn_decode(Shape shape, double ns) noexcept;
  void learn_reference(Shape shape) noexcept { learn(reference_ns_, decode_ns(shape), kTimeShare); }
  // `gained_bytes`: by which the shortest form found is shorter than before the attempt, even if
  // another form was chosen.
  void learn_attempt(Stage stage, Form form, std::uint32_t length, double cpu_ns,
                     double gained_bytes) noexcept {
    learn_time(attempt_ns_[index(stage)], cpu_ns);
    learn(gain_bytes_[index(stage)][index(form)][band_of(length)], gained_bytes, kGainShare);
  }
  Figures figures() const noexcept;

 private:
  using Mean = std::atomic<double>;

  template <typename E>
  static constexpr std::size_t index(E e) noexcept {
    return static_cast<std::size_t>(e);
  }
  // The mean for this shape. Transposed pages have means of their own, because the library sees
  // other bytes, and the transposition takes time, too. Words of 4 and of 8 bytes differ little.
  static auto mean_of(Shape shape, auto& as_it_is, auto& columns) noexcept
      -> decltype(as_it_is[0]) {
    return (shape.transpose == Transpose::none ? as_it_is : columns)[index(shape.form)];
  }
  double byte_second_ns() const noexcept;
  double decode_ns(Shape shape) const noexcept;
  double wait_ns(double decode_ns, std::uint32_t dependents) const noexcept;
  // mean += share * (value - mean), so about the last 1 / share values count.
  static void learn(Mean& mean, double value, double share) noexcept;
  // The same, with `ns` bounded: a time far above the mean was interrupted.
  static void learn_time(Mean& mean, double ns) noexcept;
  static constexpr double kGainShare = 1.0 / 128;
  // Neighbours are alike, and a walk meets many like contents before it meets others. So times,
  // which change little, are averaged over many values.
  static constexpr double kTimeShare = 1.0 / 2048;

  Mean cpu_s_per_gib_hour_{Economy{}.cpu_s_per_gib_hour};
  Mean wait_weight_{Economy{}.wait_weight};
  ByForm<Mean> decode_ns_;
  ByForm<Mean> decode_columns_ns_;
  Mean reference_ns_;  // to decode a reference, in the form that it had when it was taken
  ByStage<Mean> attempt_ns_;
  ByStage<ByForm<ByBand<Mean>>> gain_bytes_;
};

}  // namespace ramfold::store
