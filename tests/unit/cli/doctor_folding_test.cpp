// SPDX-License-Identifier: GPL-2.0-or-later
// What `ramfold doctor` tells of why nothing, or a VM, is not folded.
#include <algorithm>
#include <catch2/catch.hpp>

#include "doctor_host.hpp"

using namespace ramfold;
using namespace ramfold::cli;

namespace {

using Host = DoctorHost;

}  // namespace

TEST_CASE("every reason of a VM that is not folded has a row, and its weight") {
  using control::VmState;
  const auto severity = [](const char* code, VmState state) {
    Host host;
    host.daemon.vms[0].state = state;
    host.daemon.vms[0].reasons = {{code, "this is so", "do that"}};
    const auto rows = failed(host, "vm.folding");
    REQUIRE(rows.size() == 1);
    CHECK(rows[0].subject == "web (pid 101)");
    CHECK(found_problems(host.checks()) == (rows[0].severity != Severity::info));
    return rows[0].severity;
  };
  CHECK(severity("other_mapper", VmState::observe_only) == Severity::warning);
  CHECK(severity("a-reason-of-a-later-version", VmState::observe_only) == Severity::warning);
  CHECK(severity("lost_pages", VmState::failed) == Severity::problem);
  CHECK(severity("inconsistent", VmState::failed) == Severity::problem);
  CHECK(severity("let-go", VmState::detached) == Severity::problem);
  // The operator wants it so.
  CHECK(severity("paused", VmState::paused) == Severity::info);
  CHECK(severity("policy", VmState::observe_only) == Severity::info);
  CHECK(severity("detached", VmState::detached) == Severity::info);

  Host host;
  host.daemon.vms.push_back(control::fake_vm(2, "", VmState::observe_only));
  host.daemon.vms[1].reasons = {{"large_folios", "first", "1"}, {"unreadable", "second", "2"}};
  const auto rows = failed(host, "vm.folding");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].text == "first");
  CHECK(rows[1].text == "second");
  CHECK(rows[1].remedy == "2");
  CHECK(rows[1].subject == "pid 4002");  // a process that this tree does not have
}

TEST_CASE("every reason of the host has one row, and its weight") {
  const auto severity = [](const char* code) {
    Host host;
    host.daemon.host.reasons = {{code, "this is so", "do that"}};
    for (control::VmView& vm : host.daemon.vms) vm.reasons = host.daemon.host.reasons;
    const auto rows = failed(host, "daemon.folding");
    REQUIRE(rows.size() == 1);
    CHECK(failed(host, "vm.folding").empty());
    CHECK(found_problems(host.checks()) == (rows[0].severity != Severity::info));
    return rows[0].severity;
  };
  for (const char* code : {"unusable-vm", "not-recovered", "meminfo"})
    CHECK(severity(code) == Severity::problem);
  for (const char* code : {"promise", "store-full", "a-reason-of-a-later-version"})
    CHECK(severity(code) == Severity::warning);
  for (const char* code : {"off", "paused", "recovering"}) CHECK(severity(code) == Severity::info);

  Host host;
  host.daemon.host.notices = {{"unusable-vm", "vm 3 cannot be served", "end that VM"}};
  CHECK(failed(host, "daemon.folding").size() == 1);
}

TEST_CASE("a VM that ramfold regulates as it is meant to has no failure") {
  for (const char* code : {"memory-plentiful", "stall-budget", "resident-floor", "held-pages"}) {
    INFO(code);
    Host host;
    host.daemon.vms[0].state = control::VmState::idle;
    host.daemon.vms[0].reasons = {{code, "this is so", "do that"}};
    for (const Check& check : host.checks()) CHECK(check.outcome == Outcome::pass);
  }
}

TEST_CASE("why a VM is not folded is said once") {
  Host host;
  control::VmView& vm = host.daemon.vms[0];
  vm.state = control::VmState::observe_only;
  const auto rows = [&] {
    std::vector<std::string_view> ids;
    for (const Check& check : host.checks()) {
      if (check.outcome != Outcome::pass) ids.push_back(check.id);
    }
    return ids;
  };
  // The command line says it.
  more_arguments({"-incoming", "defer"})(host);
  vm.reasons = {{"incoming_migration", "x", "y"}};
  CHECK(rows() == std::vector<std::string_view>{"vm.command"});
  vm.reasons.push_back({"other_mapper", "x", "y"});
  CHECK(rows() == std::vector<std::string_view>{"vm.command", "vm.folding"});
  // It is so of the whole host.
  good_arguments(host);
  vm.reasons = {{"no-keeper", "the keeper does not hold this VM", "start it"}};
  host.daemon.host.reasons = {{"no-keeper", "the keeper is not there", "start it"}};
  host.daemon.host.keeper.state = control::KeeperState::absent;
  CHECK(rows() == std::vector<std::string_view>{"daemon.keeper"});
  vm.reasons = {{"no_pin_test", "x", "y"}};
  host.daemon.host.reasons = {{"no-pin-test", "x", "y"}};
  host.daemon.host.keeper.state = control::KeeperState::holding;
  CHECK(rows() == std::vector<std::string_view>{"daemon.pin_test"});
}

TEST_CASE("a VM that is only observed is never told as well, also before the daemon knows why") {
  Host host;
  host.daemon.vms[0].state = control::VmState::observe_only;
  const auto checks = host.checks();
  const auto row = std::ranges::find(checks, "vm.folding", &Check::id);
  REQUIRE(row != checks.end());
  CHECK(row->outcome == Outcome::unknown);
  CHECK_FALSE(row->remedy.empty());
  CHECK_FALSE(found_problems(checks));
}
