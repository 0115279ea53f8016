// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "fault/spinning.hpp"

using ramfold::fault::Spinning;

TEST_CASE("a thread that has served nothing does not spin") {
  Spinning spinning;
  CHECK_FALSE(spinning.begins());
  spinning.served(Spinning::kSpinNs / Spinning::kTimesServed);
  CHECK(spinning.begins());
}

TEST_CASE("spins take no more than their part of the time served") {
  Spinning spinning;
  std::uint64_t served = 0, spun = 0;
  for (int i = 0; i < 10'000; ++i) {
    spinning.served(3'000);
    served += 3'000;
    if (!spinning.begins()) continue;
    spinning.ended(40'000, true);
    spun += 40'000;
  }
  CHECK(spun <= served * Spinning::kTimesServed);
  CHECK(spun >= served * Spinning::kTimesServed * 9 / 10);
}

TEST_CASE("time served is kept for a few spins only") {
  Spinning spinning;
  for (int i = 0; i < 1000; ++i) spinning.served(1'000'000);
  std::uint64_t spun = 0;
  while (spinning.begins()) {
    spinning.ended(Spinning::kSpinNs, true);
    spun += Spinning::kSpinNs;
  }
  CHECK(spun <= Spinning::kBudgetMaxNs);
}

TEST_CASE("spins without an event become rare, and one with an event ends that") {
  Spinning spinning;
  unsigned spins = 0;
  for (int i = 0; i < 10'000; ++i) {
    spinning.served(50'000);
    if (!spinning.begins()) continue;
    ++spins;
    spinning.ended(Spinning::kSpinNs, false);
  }
  CHECK(spins < 25);
  while (true) {
    spinning.served(50'000);
    if (spinning.begins()) break;
  }
  spinning.ended(1'000, true);
  CHECK(spinning.begins());
}
