// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/targets.hpp"

#include <unistd.h>
#include <catch2/catch.hpp>

using namespace ramfold;
using namespace ramfold::policy;

namespace {

constexpr const char* kUuid = "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c";
constexpr std::uint32_t kAlice = 1001;
constexpr std::uint32_t kMallory = 1666;

std::optional<std::uint32_t> uid_of(const std::string& user) {
  if (user == "alice") return kAlice;
  return std::nullopt;
}

Config config_of(std::string_view text) {
  auto config = parse_config(text, "r.toml");
  if (!config) FAIL(config.error().what);
  return *std::move(config);
}

VmTargets targets(const Config& config, const VmClaim& vm) {
  return vm_targets(config, vm, uid_of);
}
std::optional<std::string> group(const Config& config, const VmClaim& vm) {
  return vm_group(config, vm, uid_of);
}

}  // namespace

TEST_CASE("two owners, one name: only the owner's VM is in the group") {
  for (const char* owner : {"user = \"alice\"", "uid = 1001"}) {
    const Config config =
        config_of(std::string("[[vm]]\nname = \"web\"\ngroup = \"blue\"\n") + owner);
    CHECK(group(config, {"web", "", kAlice}) == "blue");
    CHECK_FALSE(group(config, {"web", "", kMallory}));
    CHECK_FALSE(group(config, {"db", "", kAlice}));
  }
}

TEST_CASE("a group that names no owner is nobody's, but for who is vouched for") {
  const Config config = config_of("[[vm]]\nname = \"web\"\ngroup = \"blue\"\n");
  CHECK_FALSE(group(config, {"web", "", kAlice}));
  CHECK(group(config, {"web", "", kAlice, Vouched::yes}) == "blue");
}

TEST_CASE("an account that is not known owns no VM") {
  const Config config = config_of("[[vm]]\nname = \"web\"\nuser = \"nobody-here\"\ngroup = \"g\"");
  CHECK_FALSE(group(config, {"web", "", kAlice}));
}

TEST_CASE("what takes away holds for who claims the name, what gives does not") {
  SECTION("takes away") {
    const Config config = config_of(
        "[[vm]]\nname = \"web\"\nfold = false\nzero = false\nshare = false\nlz4 = false\n"
        "map = false\n[fold]\nmap = true\n");
    CHECK(targets(config, {"web", "", kMallory}) == VmTargets{false, false, false, false});
    CHECK(override_complaints(config, "r.toml", uid_of).empty());
  }
  SECTION("gives") {
    const char* const text =
        "[fold]\nzero = false\nshare = false\nlz4 = false\n[[vm]]\nname = \"web\"\nfold = true\n"
        "zero = true\nshare = true\nlz4 = true\nmap = true\n";
    const Config config = config_of(text);
    CHECK(targets(config, {"web", "", kMallory}) == VmTargets{true, false, false, false});
    CHECK(targets(config, {"web", "", kMallory, Vouched::yes}) ==
          VmTargets{true, true, true, true, true});
    const Config owned = config_of(std::string(text) + "user = \"alice\"\n");
    CHECK(targets(owned, {"web", "", kAlice}) == VmTargets{true, true, true, true, true});
    CHECK(targets(owned, {"web", "", kMallory}) == VmTargets{true, false, false, false});
  }
}

TEST_CASE(
    "a smaller stall budget and a floor hold for who claims the name, a larger budget does not") {
  const auto of = [](const char* keys, Vouched vouched = Vouched::no) {
    const Config config = config_of(std::string("[[vm]]\nname = \"web\"\n") + keys);
    return targets(config, {"web", "", kMallory, vouched});
  };
  CHECK(of("fold = true").stall_budget == 0.01);
  CHECK(of("stall_budget = 0.001").stall_budget == 0.001);
  CHECK(of("stall_budget = 0.5").stall_budget == 0.01);
  CHECK(of("stall_budget = 0.5", Vouched::yes).stall_budget == 0.5);
  CHECK(of("resident_floor = \"1 GiB\"").resident_floor == ByteCount{1u << 30});
  CHECK(of("fold = true").resident_floor == ByteCount{0});
  const Config larger = config_of("[[vm]]\nname = \"web\"\nstall_budget = 0.5\n");
  REQUIRE(override_complaints(larger, "r.toml", uid_of).size() == 1);
  CHECK(override_complaints(larger, "r.toml", uid_of)[0].find("stall_budget does not hold") !=
        std::string::npos);
}

TEST_CASE("who claims the name may be folded later than others, and no sooner") {
  const auto of = [](const char* keys, const char* host, Vouched vouched = Vouched::no) {
    const Config config = config_of(std::string(host) + "[[vm]]\nname = \"web\"\n" + keys);
    return targets(config, {"web", "", kMallory, vouched});
  };
  const char* const pressure = "[fold]\nwhen = \"pressure\"\npasses = 3\n";
  const char* const eager = "[fold]\nwhen = \"eager\"\npasses = 3\n";
  CHECK(of("", eager).when == FoldWhen::eager);
  CHECK(of("when = \"pressure\"", eager).when == FoldWhen::pressure);
  CHECK(of("when = \"eager\"", eager).when == FoldWhen::eager);
  CHECK(of("when = \"eager\"", pressure).when == FoldWhen::pressure);
  CHECK(of("when = \"eager\"", pressure, Vouched::yes).when == FoldWhen::eager);
  CHECK(of("", eager).passes == 3);
  CHECK(of("passes = 5", eager).passes == 5);
  CHECK(of("passes = 2", eager).passes == 3);
  CHECK(of("passes = 2", eager, Vouched::yes).passes == 2);
  const Config sooner =
      config_of(std::string(pressure) + "[[vm]]\nname = \"web\"\nwhen = \"eager\"\npasses = 1\n");
  REQUIRE(override_complaints(sooner, "r.toml", uid_of).size() == 1);
  CHECK(override_complaints(sooner, "r.toml", uid_of)[0].find("when, passes does not hold") !=
        std::string::npos);
  const Config later =
      config_of(std::string(eager) + "[[vm]]\nname = \"web\"\nwhen = \"pressure\"\npasses = 4\n");
  CHECK(override_complaints(later, "r.toml", uid_of).empty());
}

TEST_CASE("uuid before name, owner before none, absent keys as for the rest") {
  Config config = config_of(std::string("[fold]\nlz4 = false\n") +
                            "[[vm]]\nname = \"a\"\nuid = 1001\ngroup = \"named\"\nfold = false\n"
                            "[[vm]]\nname = \"a\"\nzero = false\n"
                            "[[vm]]\nuid = 1001\nuuid = \"" +
                            kUuid + "\"\ngroup = \"exact\"\n");
  CHECK(targets(config, {"z", "", kAlice}) == VmTargets{true, true, true, false});
  CHECK(targets(config, {"a", "", kAlice}) == VmTargets{false, true, true, false});
  CHECK(targets(config, {"a", "", kMallory}) == VmTargets{true, false, true, false});
  CHECK(group(config, {"a", kUuid, kAlice}) == "exact");
  CHECK(group(config, {"a", "", kAlice}) == "named");
  CHECK_FALSE(group(config, {"a", kUuid, kMallory}));
}

TEST_CASE("what does not hold is told with its line, keys and remedy") {
  const Config config = config_of(
      "[[vm]]\nname = \"web\"\ngroup = \"blue\"\nfold = false\n\n[[vm]]\nname = \"db\"\n"
      "user = \"bob\"\nfold = false\n[[vm]]\nname = \"ok\"\nuser = \"alice\"\ngroup = \"blue\"\n");
  const auto lines = override_complaints(config, "r.toml", uid_of);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] ==
        "r.toml:1: [[vm]] 'web': group does not hold, since any user can give a VM "
        "that name; add the VM's owner: user = \"...\" or uid = N");
  CHECK(lines[1] ==
        "r.toml:6: [[vm]] 'db': there is no account 'bob', so it holds for no VM; correct user, or "
        "write uid = N");
}

TEST_CASE("the user database is asked for accounts") {
  CHECK(uid_of_user("root") == 0);
  CHECK_FALSE(uid_of_user("there-is-no-such-account"));
}

TEST_CASE("the host's targets are bytes of this host") {
  const Config config = config_of(
      "[fold]\nwhen = \"eager\"\nkeep_available = \"20%\"\n[host]\nreserve = \"10%\"\n"
      "unbacked_max = 7\n");
  CHECK(host_targets(config, ByteCount{1000}) ==
        HostTargets{FoldWhen::eager, ByteCount{200}, ByteCount{100}, ByteCount{7}});
}
