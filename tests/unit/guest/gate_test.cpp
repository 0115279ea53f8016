// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/gate.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using guest::Gate;

TEST_CASE("a look that began before the gate was closed does not open it") {
  rf_shared shared{};
  Gate gate(shared);
  const std::uint32_t epoch = gate.epoch();
  gate.close();  // an operator's pause, or an unfold that begins
  CHECK_FALSE(gate.open(gate.sequence(), epoch));
  CHECK_FALSE(gate.is_open());
  CHECK(gate.open(gate.sequence(), gate.epoch()));
  CHECK(gate.is_open());
  // The same look may renew what it opened.
  CHECK(gate.open(gate.sequence(), gate.epoch()));
}

TEST_CASE("a run from before a close does not hold in the gate that is opened after it") {
  rf_shared shared{};
  Gate gate(shared);
  REQUIRE(gate.open(gate.sequence(), gate.epoch()));
  const Gate::Pass pass = gate.enter();
  CHECK(pass.holds());
  gate.close();
  CHECK_FALSE(pass.holds());
  REQUIRE(gate.open(gate.sequence(), gate.epoch()));
  CHECK_FALSE(pass.holds());
}

TEST_CASE("the count of closings comes round without opening anything") {
  rf_shared shared{};
  Gate gate(shared);
  for (int i = 0; i < 1000; ++i) gate.close();
  REQUIRE(gate.open(7, gate.epoch()));
  shared.sequence.store(7);
  CHECK(gate.is_open());
  shared.sequence.store(8);
  CHECK_FALSE(gate.is_open());
}
