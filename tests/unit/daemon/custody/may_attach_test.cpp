// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/may_attach.hpp"

#include <catch2/catch.hpp>

#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

namespace {

constexpr pid_t kPid = 4711;
constexpr std::uint64_t kStart = 99;
const VmKey kWeb{"web", "", 107, std::nullopt};

// A host on which a VM may be attached, unless a test changes it.
struct Host {
  explicit Host(const TempDir& dir)
      : decisions(dir.path(), "boot"),
        policy(load_configuration({dir / "r.toml", true, "", dir.path()}), decisions, vms) {
    decisions.load();
    policy.begin();
  }
  bool may(const VmKey& vm = kWeb, std::uint64_t start_ticks = kStart) const {
    return may_attach({state, policy, decisions, left_behind}, vm, kPid, start_ticks);
  }

  HostState state;
  VmSet vms;
  Decisions decisions;
  LivePolicy policy;
  const sys::Procfs procfs;
  LeftBehind left_behind{procfs};
};

}  // namespace

TEST_CASE("a VM may be attached unless the host is off") {
  const TempDir dir;
  dir.write("r.toml", "");
  Host host(dir);
  CHECK(host.may());
  host.state.off.store(true);
  CHECK_FALSE(host.may());
}

TEST_CASE("no VM is attached while its group or the operator's decisions are not known") {
  const TempDir broken;
  broken.write("r.toml", "[fold\n");
  CHECK_FALSE(Host(broken).may());
  const TempDir unreadable;
  unreadable.write("r.toml", "");
  unreadable.write("decisions", "torn");
  CHECK_FALSE(Host(unreadable).may());
}

TEST_CASE("a VM that the operator detached is not attached, others are") {
  const TempDir dir;
  dir.write("r.toml", "");
  Host host(dir);
  REQUIRE(host.decisions.decide(VmDecision::detached, kWeb));
  CHECK_FALSE(host.may());
  CHECK(host.may({"db", "", 107, std::nullopt}));
  REQUIRE(host.decisions.take_back(VmDecision::detached, kWeb));
  CHECK(host.may());
}

TEST_CASE("a VM that was left behind is not attached anew, a later process of its pid is") {
  const TempDir dir;
  dir.write("r.toml", "");
  Host host(dir);
  KeptVm kept{};
  kept.record.pid = kPid;
  kept.record.start_time = kStart;
  host.left_behind.add_held(std::move(kept));
  CHECK_FALSE(host.may());
  CHECK(host.may(kWeb, kStart + 1));
}
