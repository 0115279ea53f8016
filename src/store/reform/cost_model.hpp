// SPDX-License-Identifier: GPL-2.0-or-later
// What a form costs, in nanoseconds of CPU: the memory it takes for as long as it is expected to be
// kept, and what those wait who read it. A content that was cold for so long is expected to stay so
// for as long again, and to be read once in that time; its dependents read it too. What encoding
// and decoding cost and what an attempt gains is learnt from those that were made; decoding apart
// from that of the reference, which is known where a form is weighed. Threads: one writes;
// figures() from any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "store/codec/forms.hpp"
#include "store/content_notes.hpp"
#include "store/form.hpp"

namespace ramfold::store {

// What memory is worth.
struct Economy {
  // CPU seconds that one GiB kept free for an hour is worth.
  double cpu_s_per_gib_hour = 3600;
  // A nanosecond that a guest waits costs so many of CPU.
  double wait_weight = 4;
};

inline constexpr std::size_t kStages = 5;

// What an attempt gains is learnt apart for contents of so many bytes: of what hardly compresses
// nothing is gained, and such pages come one after the other.
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
    ByForm<double> decode_ns{};  // of pages that were encoded as they are; not of references
    ByForm<double> decode_columns_ns{};  // of transposed ones
    ByStage<double> attempt_ns{};        // of CPU, by the stage that it leads to
    // That an attempt finds, by the form and length it begins with.
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

  // Of the memory that so many encoded bytes take.
  double memory_ns(std::uint32_t length, double cold_s) const noexcept;
  // Of keeping a content of so many encoded bytes: their memory, and the waits of its readers,
  // which decode its reference first.
  double cost_ns(Shape shape, std::optional<Shape> reference, std::uint32_t length, double cold_s,
                 std::uint32_t dependents) const noexcept;
  // An attempt at this stage, with a content that has this shape and length now, is expected to
  // gain more than it and the longer waits cost.
  bool pays(Stage stage, Shape shape, std::uint32_t length, double cold_s,
            std::uint32_t dependents) const noexcept {
    return cold_s > pays_after_s(stage, shape, band_of(length), dependents);
  }

  // Seconds that a content must have been cold for an attempt to pay.
  double pays_after_s(Stage stage, Shape shape, std::size_t band,
                      std::uint32_t dependents) const noexcept;

  // `ns`: without what it took to decode the reference.
  void learn_decode(Shape shape, double ns) noexcept;
  void learn_reference(Shape shape) noexcept { learn(reference_ns_, decode_ns(shape), kTimeShare); }
  // `gained_bytes`: by the shortest that was found, wanted or not.
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
  // Of means by form the one of this shape. Columns are other bytes for the library, and take a
  // transposition besides; it makes little difference whether their words have 4 bytes or 8.
  static auto mean_of(Shape shape, auto& as_it_is, auto& columns) noexcept
      -> decltype(as_it_is[0]) {
    return (shape.transpose == Transpose::none ? as_it_is : columns)[index(shape.form)];
  }
  double byte_second_ns() const noexcept;
  double decode_ns(Shape shape) const noexcept;
  double wait_ns(double decode_ns, std::uint32_t dependents) const noexcept;
  // About 1 / share of the last values count.
  static void learn(Mean& mean, double value, double share) noexcept;
  // What is far beyond the mean was interrupted.
  static void learn_time(Mean& mean, double ns) noexcept;
  static constexpr double kGainShare = 1.0 / 128;
  // Contents that lie beside each other are alike, and a walk comes to many of them before it comes
  // to others; what a form takes to decode stays what it is.
  static constexpr double kTimeShare = 1.0 / 2048;

  Mean cpu_s_per_gib_hour_{Economy{}.cpu_s_per_gib_hour};
  Mean wait_weight_{Economy{}.wait_weight};
  ByForm<Mean> decode_ns_;
  ByForm<Mean> decode_columns_ns_;
  Mean reference_ns_;  // of those that were taken, as they were kept then
  ByStage<Mean> attempt_ns_;
  ByStage<ByForm<ByBand<Mean>>> gain_bytes_;
};

}  // namespace ramfold::store
