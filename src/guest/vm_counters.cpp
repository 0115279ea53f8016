// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/vm_counters.hpp"

namespace ramfold::guest {
namespace {

static_assert(kVisitsAll<VmCounters>);

// Calls f(counter, place), counting places from 0.
template <typename F>
struct Events {
  F f;
  std::size_t place = 0;

  template <typename C>
  void operator()(const Metric& metric, C& counted) noexcept {
    if constexpr (ConstOr<C, Counter>) {
      if (metric.kind == MetricKind::counter) f(counted, place++);
    }
  }
};

}  // namespace

void add_events(const VmCounters& from, VmCounters& to) noexcept {
  std::array<std::uint64_t, detail::member_count<VmCounters>()> counts{};
  Events reading{[&](const Counter& one, std::size_t place) { counts[place] = one.get(); }};
  visit(reading, from);
  Events adding{[&](Counter& one, std::size_t place) { one.add(counts[place]); }};
  visit(adding, to);
}

}  // namespace ramfold::guest
