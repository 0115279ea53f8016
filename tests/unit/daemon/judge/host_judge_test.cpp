// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/host_judge.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using daemon::HostInputs;
using daemon::HostVerdict;
using daemon::judge_host;

namespace {

constexpr ByteCount gib(std::uint64_t n) { return ByteCount{n << 30}; }

HostInputs good() {
  HostInputs in;
  in.self_test_passed = true;
  in.keeper_connected = true;
  in.memory = sys::MemInfo{};
  in.memory->total = gib(64);
  in.memory->available = gib(40);
  return in;
}

policy::Config eager() {
  policy::Config config;
  config.fold.when = policy::FoldWhen::eager;
  return config;
}

}  // namespace

TEST_CASE("a host where nothing stands against it is folded, observed and reformed") {
  const HostVerdict verdict = judge_host(good(), eager());
  CHECK(verdict.reasons.empty());
  CHECK(verdict.may_fold);
  CHECK(verdict.may_observe);
  CHECK(verdict.may_reform);
}

TEST_CASE("each fact that does not hold is a reason with a remedy, and nothing is folded") {
  const std::pair<const char*, void (*)(HostInputs&)> facts[] = {
      {"self-test", [](HostInputs& in) { in.self_test_passed = false; }},
      {"starting", [](HostInputs& in) { in.self_test_passed.reset(); }},
      {"no-pin-test",
       [](HostInputs& in) {
         in.no_pin_test = {"loading a BPF program is not permitted", "give CAP_BPF"};
       }},
      {"config",
       [](HostInputs& in) {
         in.config_broken = control::Reason{"config", "r.toml:3: broken", "mend it"};
       }},
      {"state", [](HostInputs& in) { in.decisions_unreadable = "torn"; }},
      {"no-keeper", [](HostInputs& in) { in.keeper_connected = false; }},
      {"recovering", [](HostInputs& in) { in.recovering = true; }},
      {"not-recovered",
       [](HostInputs& in) {
         in.recovering = true;
         in.recovery_trouble = "no memory";
       }},
      {"paused", [](HostInputs& in) { in.paused = true; }},
      {"off", [](HostInputs& in) { in.off = true; }},
      {"meminfo", [](HostInputs& in) { in.memory.reset(); }},
      {"promise", [](HostInputs& in) { in.needed_if_all_back = gib(50); }},
  };
  for (const auto& [code, spoil] : facts) {
    HostInputs in = good();
    spoil(in);
    const HostVerdict verdict = judge_host(in, eager());
    INFO(code);
    REQUIRE(verdict.reasons.size() == 1);
    CHECK(verdict.reasons[0].code == code);
    CHECK_FALSE(verdict.reasons[0].remedy.empty());
    CHECK_FALSE(verdict.may_fold);
  }
}

TEST_CASE("a VM that cannot be served is told, and the others are folded") {
  for (const bool held : {false, true}) {
    HostInputs in = good();
    in.unserved.push_back({VmId{3}, "unreadable", held});
    const HostVerdict verdict = judge_host(in, eager());
    CHECK(verdict.reasons.empty());
    REQUIRE(verdict.notices.size() == 1);
    CHECK(verdict.notices[0].code == "unusable-vm");
    CHECK_FALSE(verdict.notices[0].remedy.empty());
    CHECK(verdict.may_fold);
    CHECK(verdict.may_observe);
    CHECK(verdict.may_reform);
  }
}

TEST_CASE("a full store is told, and zeros and equal pages are folded on") {
  HostInputs in = good();
  in.store_full = true;
  const HostVerdict verdict = judge_host(in, eager());
  CHECK(verdict.has("store-full"));
  CHECK(verdict.may_fold);
  in.needed_if_all_back = gib(50);
  CHECK_FALSE(judge_host(in, eager()).may_fold);
}

TEST_CASE("what is stored is reformed while memory is short, plentiful or promised") {
  HostInputs in = good();
  in.needed_if_all_back = gib(50);
  CHECK(judge_host(in, eager()).may_reform);
  in.store_full = true;
  CHECK(judge_host(in, eager()).may_reform);
  in.paused = true;
  CHECK_FALSE(judge_host(in, eager()).may_reform);
  in.paused = false;
  in.config_broken = control::Reason{"config", "r.toml:3: broken", "mend it"};
  CHECK_FALSE(judge_host(in, eager()).may_reform);
  in.config_broken.reset();
  in.decisions_unreadable = "torn";
  CHECK_FALSE(judge_host(in, eager()).may_reform);
}

TEST_CASE("swap counts for the promise where it lies on a disk") {
  HostInputs in = good();
  in.needed_if_all_back = gib(50);
  in.memory->swap_free = gib(20);
  CHECK(judge_host(in, eager()).has("promise"));
  in.memory->disk_swap_free = gib(20);
  const HostVerdict verdict = judge_host(in, eager());
  CHECK_FALSE(verdict.has("promise"));
  CHECK(verdict.promise.available == gib(60));
}

TEST_CASE("under pressure only: folding waits until less than keep_available is there") {
  policy::Config config;
  config.fold.when = policy::FoldWhen::pressure;
  HostInputs in = good();
  const HostVerdict plentiful = judge_host(in, config);
  CHECK(plentiful.has("memory-plentiful"));
  CHECK(plentiful.may_observe);
  CHECK_FALSE(plentiful.may_fold_when(policy::FoldWhen::pressure));
  CHECK(plentiful.may_fold_when(policy::FoldWhen::eager));  // of one VM
  in.memory->available = ByteCount{plentiful.keep_available.value - 1};
  CHECK_FALSE(judge_host(in, config).has("memory-plentiful"));
}

TEST_CASE("off that holds but for lost pages tells them, and a remedy that helps") {
  HostInputs in = good();
  in.off = true;
  in.off_but_lost = "20 pages, which are lost: 20 of vm web (id 1)";
  const HostVerdict verdict = judge_host(in, {});
  CHECK_FALSE(verdict.may_fold);
  REQUIRE(verdict.has("off"));
  CHECK(verdict.reasons[0].text.find("20 of vm web") != std::string::npos);
  CHECK(verdict.reasons[0].remedy.find("restart those VMs") != std::string::npos);
}

TEST_CASE("memory that was short is short until more than the target is available") {
  policy::Config config;  // keeps 20 % of 64 GiB
  HostInputs in = good();
  in.memory->available = ByteCount{gib(64).value / 5 + (64 << 20)};
  HostVerdict verdict = judge_host(in, config);
  CHECK(verdict.has("memory-plentiful"));
  CHECK(verdict.memory == policy::Memory::enough);
  in.memory_before = policy::Memory::is_short;
  verdict = judge_host(in, config);
  CHECK(verdict.may_fold_when(policy::FoldWhen::pressure));
  CHECK(verdict.memory == policy::Memory::is_short);
  in.memory->available = gib(40);
  CHECK(judge_host(in, config).has("memory-plentiful"));
  in.memory_stalled_permille = 50;
  CHECK(judge_host(in, config).may_fold_when(policy::FoldWhen::pressure));
}
