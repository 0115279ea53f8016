// SPDX-License-Identifier: GPL-2.0-or-later
// The counters and gauges of a struct that describes its members (base/metric.hpp).
// Threads: pure functions; counters are read as they are at that moment.
#pragma once

#include <cstdint>

#include "base/counters.hpp"
#include "base/metric.hpp"

namespace ramfold {

constexpr std::uint64_t figure_of(std::uint64_t value) noexcept { return value; }
inline std::uint64_t figure_of(const Counter& counted) noexcept { return counted.get(); }
template <typename Strong>
  requires requires(const Strong& s) { s.value; }
constexpr std::uint64_t figure_of(const Strong& strong) noexcept {
  return strong.value;
}

namespace detail {

template <typename Figure, typename Durations>
struct FigureWalk {
  Figure& figure;
  Durations& durations;

  template <typename T>
  void operator()(const Metric& metric, const T& member) {
    if constexpr (std::same_as<T, LatencyHistogram>) {
      durations(metric, member);
    } else {
      figure(metric, figure_of(member));
    }
  }
  template <typename... T>
  void elsewhere(const T&...) {}
};

}  // namespace detail

// Calls figure(metric, value) for each counter and gauge of `s`, and durations(metric, histogram)
// for each latency.
template <typename S, typename Figure, typename Durations>
void each_figure(const S& s, Figure figure, Durations durations) {
  static_assert(kVisitsAll<S>);
  detail::FigureWalk<Figure, Durations> walk{figure, durations};
  visit(walk, s);
}
template <typename S, typename Figure>
void each_figure(const S& s, Figure figure) {
  each_figure(s, figure, [](const Metric&, const LatencyHistogram&) {});
}

}  // namespace ramfold
