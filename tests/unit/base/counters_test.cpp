// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/counters.hpp"

#include <catch2/catch.hpp>

using ramfold::LatencyHistogram;

TEST_CASE("every duration falls within its bucket's edges") {
  std::size_t last = 0;
  for (std::uint64_t ns = 0; ns < 200'000; ++ns) {
    const std::size_t bucket = LatencyHistogram::bucket_of(ns);
    REQUIRE(bucket >= last);
    REQUIRE(ns <= LatencyHistogram::edge_of(bucket));
    if (bucket > 0) REQUIRE(ns > LatencyHistogram::edge_of(bucket - 1));
    last = bucket;
  }
}

TEST_CASE("quantiles are within an eighth of the truth") {
  LatencyHistogram h;
  for (std::uint64_t ns = 1; ns <= 10'000; ++ns) h.record(ns);
  for (const double q : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const double truth = q * 10'000;
    CHECK(static_cast<double>(h.quantile_ns(q)) >= truth * 0.99);
    CHECK(static_cast<double>(h.quantile_ns(q)) <= truth * 1.13);
  }
  CHECK(h.max_ns() == 10'000);
  CHECK(h.count() == 10'000);
}
