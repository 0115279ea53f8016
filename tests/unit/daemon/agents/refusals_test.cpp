// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/refusals.hpp"

#include <unistd.h>
#include <catch2/catch.hpp>

using namespace ramfold;
using namespace ramfold::daemon;

namespace {

constexpr std::uint64_t kS = 1'000'000'000;

// This process, or one that is another by now.
WaitingAgent agent(std::uint64_t ticks_off = 0) {
  const auto ticks = sys::Procfs().start_ticks(::getpid());
  REQUIRE(ticks);
  return {::getpid(), ::getuid(), *ticks + ticks_off, {"web", ""}, "too much RAM"};
}

}  // namespace

TEST_CASE("a VM that is refused again and again is told of once, as long as it asks") {
  Refusals refusals;
  const sys::Procfs procfs;
  refusals.note(agent(), 1000, 1 * kS);
  refusals.note(agent(), 1000, 3 * kS);
  REQUIRE(refusals.all(procfs, 4 * kS).size() == 1);
  CHECK(refusals.all(procfs, 4 * kS).front().refused == "too much RAM");
  CHECK(refusals.all(procfs, 3 * kS + Refusals::kForNs).size() == 1);
  CHECK(refusals.all(procfs, 4 * kS + Refusals::kForNs).empty());
  SECTION("or until it is attached") {
    refusals.forget(::getpid());
    CHECK(refusals.all(procfs, 4 * kS).empty());
  }
}

TEST_CASE("a VM that was refused and has ended is told of no more") {
  Refusals refusals;
  refusals.note(agent(1), 1000, kS);
  CHECK(refusals.all(sys::Procfs(), kS).empty());
}

TEST_CASE("one owner's refusals leave room for the others'") {
  Refusals refusals;
  for (std::size_t i = 0; i < 2 * Refusals::kMax; ++i) {
    WaitingAgent other = agent();
    other.pid = static_cast<pid_t>(i) + 2'000'000'000;
    refusals.note(other, 1000, kS);
  }
  refusals.note(agent(), 1001, kS);
  CHECK(refusals.all(sys::Procfs(), kS).size() == 1);
}
