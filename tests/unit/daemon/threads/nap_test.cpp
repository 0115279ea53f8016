// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/nap.hpp"

#include <catch2/catch.hpp>
#include <thread>

using namespace ramfold;
using daemon::StopFlag;

TEST_CASE("a stop ends a nap that would last for minutes") {
  StopFlag stop;
  std::thread sleeper([&] { stop.sleep(600'000'000'000); });
  sleep_ns(20'000'000);
  CHECK_FALSE(stop.raise());
  sleeper.join();  // or the test's own time runs out
  CHECK(stop);
  CHECK(stop.raise());
  stop.sleep(600'000'000'000);  // raised: none at all
}

TEST_CASE("without a stop a nap lasts as long as it should") {
  const StopFlag stop;
  const std::uint64_t end_ns = monotonic_ns() + 30'000'000;
  stop.sleep_until(end_ns);
  CHECK(monotonic_ns() >= end_ns);
  stop.sleep_until(end_ns);  // in the past
}
