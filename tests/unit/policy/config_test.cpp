// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/config.hpp"

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "policy/amount.hpp"
#include "policy/config_keys.hpp"
#include "policy/suggest.hpp"

using namespace ramfold;
using namespace ramfold::policy;

namespace {

std::string error_of(std::string_view text) {
  const auto config = parse_config(text, "r.toml");
  REQUIRE_FALSE(config.has_value());
  return config.error().what;
}

std::string read_doc(const char* name) {
  const char* root = std::getenv("RAMFOLD_SOURCE_ROOT");
  REQUIRE(root != nullptr);
  std::ifstream file(std::string(root) + "/docs/" + name);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("a reading tells the line of each key that the text has") {
  const ConfigReading reading =
      read_config("log_level = \"debug\"\n[fold]\n\npasses = 2\n", "r.toml");
  CHECK(reading.problems.empty());
  CHECK(reading.lines ==
        std::map<std::string, unsigned, std::less<>>{{"log_level", 1}, {"fold.passes", 4}});
}

TEST_CASE("an empty file is the default configuration") {
  const auto config = parse_config("", "r.toml");
  REQUIRE(config.has_value());
  CHECK(*config == Config{});
  CHECK(config->control_socket() == "/run/ramfold/control.sock");
}

TEST_CASE("the example file equals the defaults and shows every key") {
  const std::string text = read_doc("ramfold.toml");
  const auto config = parse_config(text, "docs/ramfold.toml");
  if (!config) FAIL(config.error().what);
  CHECK(*config == Config{});
  for (const KeyInfo& key : config_keys()) {
    const std::string leaf(key.path.substr(key.path.rfind('.') + 1));
    INFO(key.path);
    CHECK(text.find("\n" + leaf + " = ") + text.find("# " + leaf + " = ") != 2 * std::string::npos);
  }
}

TEST_CASE("the reference names every key and what it may be") {
  const std::string text = read_doc("man/ramfold.toml.5.scd");
  for (const KeyInfo& key : config_keys()) {
    const std::string leaf(key.path.substr(key.path.rfind('.') + 1));
    INFO(key.path);
    CHECK(text.find("*" + leaf + "*") != std::string::npos);
  }
}

TEST_CASE("the back-off is bounded by time") {
  FoldConfig fold;
  fold.pass_seconds = 30;
  fold.backoff_seconds_max = 7200;
  CHECK(fold.backoff_passes_max() == 240);
  fold.backoff_seconds_max = 100;
  CHECK(fold.backoff_passes_max() == 4);
  fold.backoff_seconds_max = 1;
  CHECK(fold.backoff_passes_max() == 1);
  fold.backoff = false;
  fold.backoff_seconds_max = 7200;
  CHECK(fold.backoff_passes_max() == 0);
}

TEST_CASE("every key is read") {
  const auto config = parse_config(R"(
runtime_dir = "/run/other"
state_dir = "/var/other"
control_group = "kvm-admins"
agent_group = "qemu"
log_level = "debug"
[fold]
when = "eager"
keep_available = "4 GiB"
passes = 5
pass_seconds = 2.5
backoff = false
backoff_seconds_max = 90
zero = false
share = false
lz4 = false
map = true
stall_budget = 0.05
[scan]
cpu = 1.5
threads = 2
[fault]
threads_per_vm = 3
[host]
reserve = 1073741824
unbacked_max = "10%"
arena_max = "512 MiB"
vm_ram_factor_max = 2.5
vm_kept_factor_max = 0.5
[groups]
default = "vm"
[[vm]]
name = "web"
user = "alice"
group = "blue"
fold = false
zero = true
share = true
lz4 = true
map = true
when = "pressure"
passes = 7
stall_budget = 0.5
resident_floor = "1 GiB"
[[vm]]
uuid = "8D1B3A54-6C2E-4F0A-9B7D-0C5E2F1A3B4C"
uid = 107
)",
                                   "r.toml");
  if (!config) FAIL(config.error().what);
  Config wanted;
  wanted.runtime_dir = "/run/other";
  wanted.state_dir = "/var/other";
  wanted.control_group = "kvm-admins";
  wanted.agent_group = "qemu";
  wanted.log_level = LogLevel::debug;
  wanted.fold = {FoldWhen::eager,
                 MemoryAmount::of_bytes(ByteCount{4ull << 30}),
                 5,
                 2.5,
                 false,
                 90,
                 false,
                 false,
                 false,
                 true,
                 0.05};
  wanted.scan = {1.5, 2};
  wanted.fault = {3};
  wanted.host = {MemoryAmount::of_bytes(ByteCount{1ull << 30}), MemoryAmount::of_percent(10),
                 MemoryAmount::of_bytes(ByteCount{512ull << 20}), 2.5, 0.5};
  wanted.group_default = GroupDefault::vm;
  wanted.vms = {{"web",
                 "",
                 "alice",
                 {},
                 32,
                 "blue",
                 false,
                 true,
                 true,
                 true,
                 true,
                 FoldWhen::pressure,
                 7,
                 0.5,
                 ByteCount{1u << 30}},
                {"",
                 "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c",
                 "",
                 107,
                 45,
                 {},
                 {},
                 {},
                 {},
                 {},
                 {},
                 {},
                 {},
                 {},
                 {}}};
  CHECK(*config == wanted);
}

TEST_CASE("a value that is not allowed names the line, the key, what is allowed and the remedy") {
  const std::string error = error_of("\n[fold]\nwhen = \"sometimes\"\n");
  CHECK(error ==
        "r.toml:3: fold.when: \"sometimes\" is not allowed; allowed: \"pressure\" or \"eager\"; "
        "correct it, or remove the line for the default");
}

TEST_CASE("every key refuses a value of another type and one out of range") {
  struct Case {
    const char* text;
    const char* key;
  };
  const Case cases[] = {
      {"runtime_dir = \"run\"", "runtime_dir"},
      {"runtime_dir = \"/run/\"", "runtime_dir"},
      {"runtime_dir = 1", "runtime_dir"},
      {"state_dir = \"lib\"", "state_dir"},
      {"control_group = \"a b\"", "control_group"},
      {"control_group = \"\"", "control_group"},
      {"agent_group = \"a b\"", "agent_group"},
      {"agent_group = 36", "agent_group"},
      {"log_level = 3", "log_level"},
      {"fold = 1", "fold"},
      {"fold.when = true", "fold.when"},
      {"fold.keep_available = \"120%\"", "fold.keep_available"},
      {"fold.keep_available = \"4 GB\"", "fold.keep_available"},
      {"fold.keep_available = -1", "fold.keep_available"},
      {"fold.passes = 0", "fold.passes"},
      {"fold.passes = 17", "fold.passes"},
      {"fold.passes = 2.0", "fold.passes"},
      {"fold.pass_seconds = 0", "fold.pass_seconds"},
      {"fold.backoff_seconds_max = 0.5", "fold.backoff_seconds_max"},
      {"fold.pass_seconds = nan", "fold.pass_seconds"},
      {"fold.pass_seconds = \"1\"", "fold.pass_seconds"},
      {"fold.backoff = 1", "fold.backoff"},
      {"fold.zero = \"yes\"", "fold.zero"},
      {"fold.share = 0", "fold.share"},
      {"fold.lz4 = [true]", "fold.lz4"},
      {"fold.map = 1", "fold.map"},
      {"fold.stall_budget = 0", "fold.stall_budget"},
      {"fold.stall_budget = 101", "fold.stall_budget"},
      {"fold.stall_budget = \"1%\"", "fold.stall_budget"},
      {"[[vm]]\nname = \"a\"\nwhen = \"never\"", "vm.when"},
      {"[[vm]]\nname = \"a\"\nwhen = true", "vm.when"},
      {"[[vm]]\nname = \"a\"\npasses = 0", "vm.passes"},
      {"[[vm]]\nname = \"a\"\npasses = 17", "vm.passes"},
      {"[[vm]]\nname = \"a\"\nstall_budget = 0", "vm.stall_budget"},
      {"[[vm]]\nname = \"a\"\nresident_floor = \"20%\"", "vm.resident_floor"},
      {"[[vm]]\nname = \"a\"\nresident_floor = -1", "vm.resident_floor"},
      {"scan.cpu = 0", "scan.cpu"},
      {"scan.cpu = 1.5", "scan.cpu"},
      {"scan.threads = 65", "scan.threads"},
      {"scan.referenced = \"idle\"", "scan.referenced"},
      {"fault.threads_per_vm = 0", "fault.threads_per_vm"},
      {"host.reserve = \"\"", "host.reserve"},
      {"host.unbacked_max = \"x\"", "host.unbacked_max"},
      {"host.arena_max = \"99%\"", "host.arena_max"},
      {"host.vm_ram_factor_max = 0", "host.vm_ram_factor_max"},
      {"host.vm_ram_factor_max = \"400%\"", "host.vm_ram_factor_max"},
      {"host.vm_kept_factor_max = 17", "host.vm_kept_factor_max"},
      {"groups.default = \"all\"", "groups.default"},
      {"gate.grace_seconds = 0", "gate.grace_seconds"},
      {"gate.grace_seconds = 5", "gate.grace_seconds"},
      {"[[vm]]\nname = \"a\"\ngrace_seconds = 5", "vm.grace_seconds"},
      {"[gate]\nother = 5", "gate.other"},
      {"[vm]\nname = \"a\"", "vm"},
      {"vm = [1]", "vm"},
      {"[[vm]]\nfold = false", "vm"},
      {"[[vm]]\nname = \"\"", "vm.name"},
      {"[[vm]]\nuuid = \"8d1b3a54\"", "vm.uuid"},
      {"[[vm]]\nname = \"a\"\ngroup = \"a/b\"", "vm.group"},
      {"[[vm]]\nname = \"a\"\nfold = 0", "vm.fold"},
      {"[[vm]]\nname = \"a\"\nuser = \"a b\"", "vm.user"},
      {"[[vm]]\nname = \"a\"\nuser = 7", "vm.user"},
      {"[[vm]]\nname = \"a\"\nuid = -1", "vm.uid"},
      {"[[vm]]\nname = \"a\"\nuid = 4294967295", "vm.uid"},
      {"[[vm]]\nname = \"a\"\nuid = 1\nuser = \"b\"", "vm"},
      {"[[vm]]\nname = \"a\"\n[[vm]]\nname = \"a\"", "vm"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    const std::string error = error_of(c.text);
    INFO(error);
    CHECK(error.find(std::string(": ") + c.key + ": ") != std::string::npos);
    CHECK(error.find(';') != std::string::npos);
  }
}

TEST_CASE("one name has an override for each owner, and one for all") {
  CHECK(parse_config("[[vm]]\nname = \"a\"\nuid = 1\n[[vm]]\nname = \"a\"\nuid = 2\n"
                     "[[vm]]\nname = \"a\"\n",
                     "r.toml")
            .has_value());
  CHECK_FALSE(
      parse_config("[[vm]]\nname = \"a\"\nuid = 1\n[[vm]]\nname = \"a\"\nuid = 1\n", "r.toml")
          .has_value());
}

TEST_CASE("an unknown key is an error with the nearest one") {
  CHECK(error_of("[fold]\npases = 2") ==
        "r.toml:2: fold.pases: unknown key; did you mean fold.passes?");
  CHECK(error_of("passes = 2") == "r.toml:1: passes: unknown key; did you mean fold.passes?");
  CHECK(error_of("[flod]\nx = 1").find("unknown key") != std::string::npos);
  CHECK(error_of("[[vm]]\nname = \"a\"\ngruop = \"b\"").find("did you mean vm.group?") !=
        std::string::npos);
  CHECK(error_of("colour = 1").find("ramfold.toml(5)") != std::string::npos);
}

TEST_CASE("all problems are told at once, in one line each") {
  const std::string error = error_of("[fold]\nwhen = 1\npasses = 0\n[scan]\nthreads = 0\n");
  CHECK(std::count(error.begin(), error.end(), '\n') == 2);
}

TEST_CASE("what is not TOML names its line") {
  CHECK(error_of("a = 1\nb = = 2\n").starts_with("r.toml:2: not valid TOML: "));
}

TEST_CASE("a grace period, which is no key any more, is an error that says what to do") {
  for (const char* text :
       {"[gate]\ngrace_seconds = 5", "[[vm]]\nname = \"a\"\ngrace_seconds = 5"}) {
    const std::string error = error_of(text);
    INFO(error);
    CHECK(error.find("grace_seconds: is no key any more; remove the line") != std::string::npos);
  }
  // An empty section is what is left when the line was removed.
  CHECK(parse_config("[gate]\n", "r.toml").has_value());
}

TEST_CASE("amounts of memory") {
  const ByteCount host{10000};
  CHECK(parse_amount("20%")->resolve(host) == ByteCount{2000});
  CHECK(parse_amount("1.5 KiB")->resolve(host) == ByteCount{1536});
  CHECK(parse_amount("2TiB")->resolve(host) == ByteCount{2ull << 40});
  CHECK(parse_amount("0")->resolve(host) == ByteCount{0});
  for (const char* bad : {"", "%", "GiB", "-1", "1e3", "101%", "4 GB", "inf", "nan", "99999 TiB"}) {
    INFO(bad);
    CHECK_FALSE(parse_amount(bad).has_value());
  }
}

TEST_CASE("of a broken file what is valid is kept") {
  const ConfigReading reading = read_config(
      "runtime_dir = \"/run/mine\"\ncontrol_group = 7\n[fold]\nwhen = \"never\"\n"
      "[groups]\ndefault = \"vm\"\n",
      "r.toml");
  CHECK(reading.problems.size() == 2);
  CHECK(reading.config.runtime_dir == "/run/mine");
  CHECK(reading.config.control_group == Config{}.control_group);
  CHECK(reading.config.group_default == GroupDefault::vm);
  CHECK(reading.config.fold.when == FoldWhen::pressure);
}

TEST_CASE("of a file that is not TOML the places are kept, wherever the broken line is") {
  const std::string places =
      "runtime_dir = \"/run/mine\"\n  state_dir=\"/var/mine\" # here\ncontrol_group = \"kvm\"\n"
      "agent_group = \"qemu\"\n";
  for (const std::string& text :
       {places + "log_level = = \"debug\"\n", "a = [\n" + places, places + "[fold\nwhen = 1\n"}) {
    INFO(text);
    const ConfigReading reading = read_config(text, "r.toml");
    CHECK(reading.problems.size() == 1);
    Config wanted;
    wanted.runtime_dir = "/run/mine";
    wanted.state_dir = "/var/mine";
    wanted.control_group = "kvm";
    wanted.agent_group = "qemu";
    CHECK(reading.config == wanted);
  }
  // A key of a section is another key, and a value that is not allowed none.
  const ConfigReading reading =
      read_config("runtime_dir = \"run\"\n[x]\nstate_dir = \"/tmp/x\"\n = 1\n", "r.toml");
  CHECK(reading.problems.size() == 1);
  CHECK(reading.config == Config{});
}

TEST_CASE("distance counts insertions, deletions, changes and swaps") {
  CHECK(edit_distance("passes", "passes") == 0);
  CHECK(edit_distance("pases", "passes") == 1);
  CHECK(edit_distance("flod", "fold") == 1);
  CHECK(edit_distance("", "abc") == 3);
}
