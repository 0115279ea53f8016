// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/set_values.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using namespace ramfold::policy;

namespace {

constexpr std::uint32_t kAlice = 10001;
constexpr std::uint32_t kBob = 10002;

std::optional<std::uint32_t> no_users(const std::string&) { return std::nullopt; }

Config config_of(std::string_view text) {
  auto config = parse_config(text, "r.toml");
  if (!config) FAIL(config.error().what);
  return *std::move(config);
}

Config with(const Config& file, const SetValues& set) {
  WithSetValues result = with_set_values(file, set, no_users);
  CHECK(result.problems.empty());
  return std::move(result.config);
}

VmTargets targets(const Config& config, std::string_view name, std::uint32_t uid,
                  std::string_view uuid = "") {
  return vm_targets(config, {name, uuid, uid, Vouched::no}, no_users);
}

std::string line_of(const std::optional<KeyProblem>& problem) {
  return problem ? problem->line() : "";
}

}  // namespace

TEST_CASE("a key is set from the text that an operator types") {
  Config config;
  CHECK_FALSE(set_key(config, "fold.passes", "3"));
  CHECK_FALSE(set_key(config, "fold.pass_seconds", "5"));
  CHECK_FALSE(set_key(config, "fold.when", "eager"));
  CHECK_FALSE(set_key(config, "fold.backoff", "false"));
  CHECK_FALSE(set_key(config, "host.reserve", "4 GiB"));
  CHECK_FALSE(set_key(config, "host.unbacked_max", "8192"));
  CHECK(config.fold.passes == 3);
  CHECK(config.fold.pass_seconds == 5);
  CHECK(config.fold.when == FoldWhen::eager);
  CHECK_FALSE(config.fold.backoff);
  CHECK(config.host.reserve == MemoryAmount::of_bytes(ByteCount{4ull << 30}));
  CHECK(config.host.unbacked_max == MemoryAmount::of_bytes(ByteCount{8192}));
  VmOverride vm;
  CHECK_FALSE(set_key(vm, "lz4", "false"));
  CHECK(vm.lz4 == false);
}

TEST_CASE("a value or key that is not allowed changes nothing, and the remedy is named") {
  Config config;
  CHECK(line_of(set_key(config, "fold.passes", "17")) ==
        "fold.passes: 17 is not allowed; allowed: a whole number from 1 to 16");
  CHECK(line_of(set_key(config, "fold.passes", "2.5")) ==
        "fold.passes: 2.5 is not allowed; allowed: a whole number from 1 to 16");
  CHECK(line_of(set_key(config, "fold.backoff", "1")) ==
        "fold.backoff: 1 is not allowed; allowed: true or false");
  CHECK(line_of(set_key(config, "scan.cpu", "nan")).starts_with("scan.cpu: nan is not allowed"));
  CHECK(line_of(set_key(config, "fold.pases", "2")) ==
        "fold.pases: unknown key; did you mean fold.passes?");
  CHECK(line_of(set_key(config, "colour", "2")) ==
        "colour: unknown key; `ramfold policy get` lists the keys");
  CHECK(config == Config{});
  VmOverride vm;
  CHECK(line_of(set_key(vm, "lz5", "true")) == "lz5: unknown key; did you mean lz4?");
  CHECK(line_of(set_key(vm, "lz4", "")) == "lz4:  is not allowed; allowed: true or false");
  CHECK(vm == VmOverride{});
}

TEST_CASE("values that were set win over the file's") {
  const Config file = config_of("[fold]\nlz4 = false\npasses = 4\n");
  const Config config = with(file, {{{"fold.lz4", "true"}, {"fold.when", "eager"}}, {}});
  CHECK(config.fold.lz4);
  CHECK(config.fold.when == FoldWhen::eager);
  CHECK(config.fold.passes == 4);
}

TEST_CASE("values that contradict the file do not hold") {
  const Config file = config_of("[scan]\nthreads = 1\n");
  const WithSetValues result = with_set_values(file, {{{"scan.cpu", "1.5"}}, {}}, no_users);
  REQUIRE(result.problems.size() == 1);
  CHECK(result.problems[0].key == "scan.cpu");
  CHECK(result.config == file);
  CHECK(with(file, {{{"scan.cpu", "1.5"}, {"scan.threads", "2"}}, {}}).scan.cpu == 1.5);
}

TEST_CASE("a value that was set for a VM holds for that VM of that owner alone") {
  const SetValues set{{}, {{"web", "", kAlice, {{"lz4", "false"}}}}};
  const Config config = with(Config{}, set);
  CHECK_FALSE(targets(config, "web", kAlice).lz4);
  CHECK(targets(config, "web", kBob).lz4);
  CHECK(targets(config, "db", kAlice).lz4);
  // It may give what the host does not: the operator named the owner.
  const Config none = config_of("[fold]\nzero = false\n");
  CHECK(targets(with(none, {{}, {{"web", "", kAlice, {{"zero", "true"}}}}}), "web", kAlice).zero);
}

TEST_CASE("a VM keeps what its section of the file says beside the value that was set") {
  constexpr const char* kUuid = "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c";
  const Config file = config_of(
      "[[vm]]\nname = \"web\"\nuid = 10001\nzero = false\ngroup = \"g\"\n"
      "[[vm]]\nname = \"db\"\nfold = false\ngroup = \"stolen\"\n");
  const Config config = with(
      file,
      {{}, {{"web", kUuid, kAlice, {{"lz4", "false"}}}, {"db", "", kAlice, {{"lz4", "false"}}}}});
  CHECK(targets(config, "web", kAlice, kUuid) == VmTargets{true, false, true, false});
  CHECK(vm_group(config, {"web", kUuid, kAlice, Vouched::no}, no_users) == "g");
  // The file's section names no owner: its group does not begin to hold.
  CHECK(targets(config, "db", kAlice) == VmTargets{false, true, true, false});
  CHECK_FALSE(vm_group(config, {"db", "", kAlice, Vouched::no}, no_users));
}
