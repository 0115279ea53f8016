// SPDX-License-Identifier: GPL-2.0-or-later
// QEMUs as /proc shows them: what they are known by, the files that they name, and those that the
// daemon does not have.
#include "cli/qemu_process.hpp"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/unattached.hpp"
#include "fake_host.hpp"

using namespace ramfold;
using namespace ramfold::cli;

namespace {

struct Host : FakeHost {
  HostFiles files{tree.path()};
};

}  // namespace

TEST_CASE("a -readconfig file is found where QEMU finds it; without it no RAM is guessed") {
  const Host host;
  const auto of = [&](std::string_view id) {
    for (const Check& check : check_vms(host.files)) {
      if (check.id == id) return check;
    }
    return Check{};
  };
  host.arguments({"/usr/bin/kvm-spice", "-name", "c1", "-readconfig", "/run/c1.conf"});
  host.tree.write("sys/fs/cgroup/machine.slice/web.scope/memory.max", "1000000000\n");
  CHECK(of("vm.command").outcome == Outcome::unknown);
  CHECK(of("vm.command").text.find("/run/c1.conf: not found") != std::string::npos);
  CHECK(of("vm.cgroup").outcome == Outcome::unknown);
  CHECK_FALSE(found_problems(check_vms(host.files)));
  host.tree.write("run/c1.conf",
                  "[object \"r\"]\nqom-type = \"memory-backend-memfd\"\nsize = \"512M\"\n"
                  "[machine]\nmemory-backend = \"r\"\n");
  CHECK(of("vm.command").outcome == Outcome::pass);
  CHECK(of("vm.cgroup").outcome == Outcome::pass);
  // Its own root comes first; a link there leads nowhere else.
  host.tree.write("proc/101/root/run/c1.conf", "[memory]\nsize = \"3G\"\n");
  CHECK(of("vm.command").text == "RAM is not a memory-backend-memfd");
  CHECK(of("vm.cgroup").text.find("3.0 GiB") != std::string::npos);
  std::filesystem::remove(host.tree / "proc/101/root/run/c1.conf");
  std::filesystem::create_symlink("/etc/passwd", host.tree / "proc/101/root/run/c1.conf");
  CHECK(of("vm.command").text.find("not found") != std::string::npos);
  // What reading would take away is left alone.
  std::filesystem::remove(host.tree / "proc/101/root/run/c1.conf");
  REQUIRE(::mkfifo((host.tree / "proc/101/root/run/c1.conf").c_str(), 0600) == 0);
  CHECK(of("vm.command").text.find("not a regular file") != std::string::npos);
  // A descriptor of QEMU's, not of ours.
  host.arguments({"kvm", "-readconfig", "/dev/fd/9"});
  CHECK(of("vm.command").outcome == Outcome::unknown);
  host.tree.write("proc/101/fd/9", "[overcommit]\nmem-lock = \"yes\"\n");
  CHECK(of("vm.command").outcome == Outcome::fail);
}

TEST_CASE("a QEMU is known by its file too") {
  Host host;
  std::vector<std::string> renamed = kQemu;
  renamed.front() = "my-vm";
  host.arguments(renamed);
  CHECK(check_vms(host.files).empty());
  std::filesystem::create_symlink("/opt/qemu-lite-system-x86_64", host.tree / "proc/101/exe");
  CHECK_FALSE(check_vms(host.files).empty());
}

TEST_CASE("a migration that is said to have ended is told of no more") {
  Host host;
  std::vector<std::string> incoming = kQemu;
  incoming.insert(incoming.end(), {"-incoming", "defer"});
  host.arguments(incoming);
  CHECK(found_problems(check_vms(host.files)));
  host.daemon.vms[0].pid = 101;
  host.daemon.vms[0].reasons = {{"incoming_migration", "x", "y"}};
  CHECK(found_problems(check_vms(host.files, &host.daemon)));
  host.daemon.vms[0].reasons.clear();
  CHECK_FALSE(found_problems(check_vms(host.files, &host.daemon)));
}

TEST_CASE("a QEMU that the daemon does not have is listed with its why") {
  Host host;
  host.arguments({"qemu-system-x86_64", "-name", "private", "-m", "1G"});
  const auto found = unattached(host.files, host.daemon);
  REQUIRE(found.size() == 1);
  CHECK(found[0].name == "private");
  CHECK(found[0].why.front().text == "RAM is not a memory-backend-memfd");
  const std::string text = render_unattached(found, Style(false, 80));
  CHECK(text.find("  private (pid 101)\n    why: RAM is not a memory-backend-memfd\n") !=
        std::string::npos);
  CHECK(text.find("remedy: start QEMU with -object") != std::string::npos);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 80);
  const auto json = json_of(found);
  CHECK(json[0]["pid"] == 101);
  CHECK(json[0]["reasons"][0]["id"] == "vm.command");
  // Nothing stands against it, and yet it is not there.
  host.arguments(kQemu);
  CHECK(unattached(host.files, host.daemon)[0].why.front().text.find("offered no RAM") !=
        std::string::npos);
  host.daemon.vms[0].pid = 101;
  CHECK(unattached(host.files, host.daemon).empty());
  CHECK(render_unattached({}, Style(false)).empty());
}
