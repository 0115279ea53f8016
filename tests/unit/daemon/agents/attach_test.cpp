// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/attach.hpp"

#include <catch2/catch.hpp>

#include "unit/sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using ramfold::test::FakeTree;

namespace {

constexpr uid_t kAlice = 10'001;  // neither has an account here
constexpr uid_t kMallory = 10'666;

policy::Config config_of(std::string_view text) {
  auto config = policy::parse_config(text, "r.toml");
  if (!config) FAIL(config.error().what);
  return *std::move(config);
}

}  // namespace

TEST_CASE("two uids, one name: the groups differ, also where the configuration names the VM") {
  const VmIdentity web{"web", ""};
  const auto owned = config_of("[[vm]]\nname = \"web\"\nuid = 10001\ngroup = \"blue\"\n");
  CHECK(group_of(owned, web, kAlice, VmId{1}) == "set:blue");
  CHECK(group_of(owned, web, kMallory, VmId{2}) == "uid:10666");
  const auto of_nobody = config_of("[[vm]]\nname = \"web\"\ngroup = \"blue\"\n");
  CHECK(group_of(of_nobody, web, kAlice, VmId{1}) == "uid:10001");
  CHECK(group_of(of_nobody, web, kMallory, VmId{2}) == "uid:10666");
}

TEST_CASE("who shares nothing is alone, whoever says so") {
  const auto config = config_of("[[vm]]\nname = \"web\"\nshare = false\n");
  CHECK(group_of(config, {"web", ""}, kAlice, VmId{7}) == "vm:7");
  CHECK(group_of(config, {"db", ""}, kAlice, VmId{8}) == "uid:10001");
}

TEST_CASE("a VM's uuid is compared as the configuration has it, and is a uuid or none") {
  const FakeTree tree;
  const sys::Procfs procfs(tree.root());
  const auto identity_with = [&](const std::string& uuid) {
    tree.write("proc/7/cmdline",
               std::string("qemu\0-name\0guest=web,debug-threads=on\0-uuid\0", 44) + uuid +
                   std::string(1, '\0'));
    return identify(procfs, 7);
  };
  const VmIdentity good = identity_with("8D1B3A54-6C2E-4F0A-9B7D-0C5E2F1A3B4C");
  CHECK(good.name == "web");
  CHECK(good.uuid == "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c");
  CHECK(identity_with("8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4").uuid.empty());
  CHECK(identity_with("8d1b3a54 6c2e-4f0a-9b7d-0c5e2f1a3b4c").uuid.empty());
}
