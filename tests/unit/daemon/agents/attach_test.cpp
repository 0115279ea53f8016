// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/attach.hpp"

#include <catch2/catch.hpp>

#include "../../temp_dir.hpp"
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

VmIdentity identity_of(const std::vector<std::string>& arguments) {
  const TempDir tree;
  std::string line;
  for (const std::string& argument : arguments) line += argument + '\0';
  tree.write("proc/50/cmdline", line);
  return identify(sys::Procfs(tree.path()), 50);
}

}  // namespace

TEST_CASE("a VM's name and uuid come from its command line") {
  const VmIdentity libvirt = identity_of({"qemu", "-name", "guest=web,debug-threads=on", "-uuid",
                                          "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b41"});
  CHECK(libvirt.name == "web");
  CHECK(libvirt.uuid == "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b41");
  CHECK(identity_of({"qemu", "-name", "caf\xc3\xa9"}).name == "caf\xc3\xa9");
  CHECK(identity_of({"qemu"}).name == "qemu-50");
  CHECK(identity_of({"qemu", "-name", ""}).name == "qemu-50");
}

TEST_CASE("no control, mark of the writing direction or broken UTF-8 of a name goes further") {
  // A new line, an escape sequence, its C1 form, an override of the direction, half a character.
  const VmIdentity hostile = identity_of({"qemu", "-name",
                                          "a\nb\x1b[2J\xc2\x9b"
                                          "1m\xe2\x80\xae"
                                          "c\xc3"});
  CHECK(hostile.name == "a?b?[2J?1m?c?");
}

TEST_CASE("a long name is cut to what a record holds, and between two characters") {
  std::string name(62, 'a');
  CHECK(identity_of({"qemu", "-name", name + "bc"}).name == name + "b");
  CHECK(identity_of({"qemu", "-name", name + "\xc3\xa9"}).name == name);
}

TEST_CASE("a VM that declares far more RAM than the host has is refused") {
  constexpr PageCount kGiB{1u << 18};
  constexpr ByteCount kHost{std::uint64_t{8} << 30};
  const policy::HostConfig host;
  CHECK_FALSE(daemon::too_much_ram(host, PageCount{32 * kGiB.value}, {}, kHost));
  const auto why = daemon::too_much_ram(host, PageCount{32 * kGiB.value + 1}, {}, kHost);
  REQUIRE(why);
  CHECK(why->find("host.vm_ram_factor_max") != std::string::npos);
  CHECK(daemon::too_much_ram(host, PageCount{std::uint64_t{8} * 1024 * kGiB.value}, {}, kHost));
}

TEST_CASE("the VMs of one owner declare no more RAM together than its share has notes for") {
  // An eighth of 8 GiB is for tables, half of that for the first owner: a byte a page of 2 TiB.
  constexpr PageCount kGiB{1u << 18};
  constexpr ByteCount kHost{std::uint64_t{8} << 30};
  const policy::HostConfig host;
  const auto why = [&](std::uint64_t of_owner, std::uint64_t of_others) {
    return daemon::too_much_ram(
               host, kGiB, {PageCount{of_owner * kGiB.value}, PageCount{of_others * kGiB.value}},
               kHost)
        .value_or("");
  };
  CHECK(why(2047, 0) == "");
  CHECK(why(2048, 0).find("run fewer VMs as this user") != std::string::npos);
  CHECK(why(0, 2048) == "");
  CHECK(why(1023, 2048) == "");
  CHECK(why(1024, 2048) != "");
}

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
