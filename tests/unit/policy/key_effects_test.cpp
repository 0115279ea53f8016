// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/key_effects.hpp"

#include <fmt/core.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "policy/config_keys.hpp"

using namespace ramfold;
using namespace ramfold::policy;

namespace {

Config config_of(std::string_view text) {
  auto config = parse_config(text, "r.toml");
  if (!config) FAIL(config.error().what);
  return *std::move(config);
}

std::vector<std::string> paths_of(const std::vector<const KeyEffect*>& effects) {
  std::vector<std::string> paths;
  for (const KeyEffect* effect : effects) paths.emplace_back(effect->path);
  return paths;
}

}  // namespace

TEST_CASE("the table of effects has every key of the configuration") {
  std::vector<std::string_view> keys;
  for (const KeyInfo& key : config_keys()) keys.push_back(key.path);
  std::vector<std::string_view> effects;
  for (const KeyEffect& effect : key_effects()) {
    INFO(effect.path);
    effects.push_back(effect.path);
    CHECK(effect_of(effect.path) == &effect);
    CHECK_FALSE(effect.how.empty());
    CHECK((effect.shown == nullptr) == effect.path.starts_with("vm."));
    CHECK((effect.copy == nullptr) == effect.path.starts_with("vm."));
  }
  CHECK(effects == keys);
  CHECK(effect_of("fold.pases") == nullptr);
}

TEST_CASE("a value that is shown can be set, and is the same then") {
  const Config other = config_of(
      "runtime_dir = \"/run/r\"\nstate_dir = \"/var/s\"\ncontrol_group = \"a\"\n"
      "agent_group = \"b\"\nlog_level = \"debug\"\n[fold]\nwhen = \"eager\"\n"
      "keep_available = \"12.5%\"\npasses = 3\npass_seconds = 0.25\nbackoff = false\n"
      "backoff_seconds_max = 60\nzero = false\nshare = false\nlz4 = false\nmap = true\n"
      "stall_budget = 0.05\n[reform]\n"
      "policy = \"off\"\ncpu = 0.5\nsimilar = false\nzstd = false\nmix = false\n[scan]\n"
      "cpu = 1.5\nthreads = 2\nreferenced = \"forget\"\n[fault]\nthreads_per_vm = "
      "3\n[host]\nreserve = 4096\n"
      "unbacked_max = \"1 GiB\"\narena_max = \"7%\"\nvm_ram_factor_max = 2\n"
      "vm_kept_factor_max = 0.5\n[groups]\ndefault = \"vm\"\n");
  Config set;
  Config copied;
  for (const KeyEffect& effect : key_effects()) {
    if (effect.shown == nullptr) continue;
    INFO(effect.path);
    CHECK(effect.shown(other) != effect.shown(Config{}));
    CHECK_FALSE(set_key(set, effect.path, effect.shown(other)));
    CHECK(effect.shown(set) == effect.shown(other));
    effect.copy(copied, other);
  }
  CHECK(set == other);
  CHECK(copied == other);
}

TEST_CASE("keys that change only at a start stay as they run, and are named") {
  const Config running;
  const Config read =
      config_of("runtime_dir = \"/run/r\"\n[fold]\nlz4 = false\n[host]\narena_max = \"9%\"\n");
  CHECK(paths_of(waiting_for_start(read, running)) ==
        std::vector<std::string>{"runtime_dir", "host.arena_max"});
  const Config taken = with_keys_of_start(read, running);
  CHECK(taken.runtime_dir == "/run/ramfold");
  CHECK(taken.host.arena_max == running.host.arena_max);
  CHECK_FALSE(taken.fold.lz4);
  CHECK(waiting_for_start(taken, running).empty());
}

TEST_CASE("ramfold.toml(5) has the table of effects") {
  const char* root = std::getenv("RAMFOLD_SOURCE_ROOT");
  REQUIRE(root != nullptr);
  std::ifstream file(std::string(root) + "/docs/man/ramfold.toml.5.scd");
  REQUIRE(file.good());
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  std::string table;
  for (const KeyEffect& effect : key_effects()) {
    table += fmt::format("|  {}\n:  {}\n:  {}\n", effect.path, words_of(effect.takes), effect.how);
  }
  INFO(table);
  CHECK(page.find(table) != std::string::npos);
}
