// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/attach.hpp"

#include <catch2/catch.hpp>

#include "../../temp_dir.hpp"

using namespace ramfold;
using daemon::identify;
using daemon::VmIdentity;

namespace {

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
                                          "c\xc3",
                                          "-uuid", "x\xe2\x81\xa6\x07"});
  CHECK(hostile.name == "a?b?[2J?1m?c?");
  CHECK(hostile.uuid == "x??");
}

TEST_CASE("a long name is cut to what a record holds, and between two characters") {
  std::string name(62, 'a');
  CHECK(identity_of({"qemu", "-name", name + "bc"}).name == name + "b");
  CHECK(identity_of({"qemu", "-name", name + "\xc3\xa9"}).name == name);
  CHECK(identity_of({"qemu", "-name", "x", "-uuid", std::string(100, 'u')}).uuid.size() == 63);
}

TEST_CASE("a VM that declares far more RAM than the host has is refused") {
  constexpr PageCount kGiB{1u << 18};
  constexpr ByteCount kHost{std::uint64_t{8} << 30};
  const policy::HostConfig host;
  CHECK_FALSE(daemon::too_much_ram(host, PageCount{32 * kGiB.value}, kHost));
  const auto why = daemon::too_much_ram(host, PageCount{32 * kGiB.value + 1}, kHost);
  REQUIRE(why);
  CHECK(why->find("host.vm_ram_factor_max") != std::string::npos);
  CHECK(daemon::too_much_ram(host, PageCount{std::uint64_t{8} * 1024 * kGiB.value}, kHost));
}
