// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/metric.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "base/figures.hpp"
#include "base/types.hpp"

using namespace ramfold;

namespace {

struct Whole {
  Counter hits;
  ByteCount held{};
  std::string name;
  std::vector<std::string> list;
  std::array<std::uint64_t, 3> by_form{};
  LatencyHistogram times;
};
template <typename V, ConstOr<Whole> S>
constexpr void visit(V& v, S& s) {
  v(counter("hits", "Hits."), s.hits);
  v(gauge("held_bytes", "Held."), s.held);
  v.elsewhere(s.name, s.list, s.by_form);
  v(latency("times", "Times."), s.times);
}

struct WithOneForgotten {
  Counter hits, misses;
};
template <typename V, ConstOr<WithOneForgotten> S>
constexpr void visit(V& v, S& s) {
  v(counter("hits", "Hits."), s.hits);
}

static_assert(kVisitsAll<Whole>);
static_assert(!kVisitsAll<WithOneForgotten>);

}  // namespace

TEST_CASE("the figures of a struct are walked by name") {
  Whole whole;
  whole.hits.add(3);
  whole.held = ByteCount{4096};
  whole.times.record(1000);
  std::vector<std::pair<std::string_view, std::uint64_t>> figures;
  std::vector<std::uint64_t> durations;
  each_figure(
      whole,
      [&](const Metric& metric, std::uint64_t value) { figures.emplace_back(metric.name, value); },
      [&](const Metric& metric, const LatencyHistogram& times) {
        CHECK(metric.kind == MetricKind::latency);
        durations.push_back(times.count());
      });
  CHECK(figures == decltype(figures){{"hits", 3}, {"held_bytes", 4096}});
  CHECK(durations == std::vector<std::uint64_t>{1});
}
