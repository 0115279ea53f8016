// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/command_line.hpp"

#include <catch2/catch.hpp>
#include <vector>

using ramfold::guest::CommandLine;
using ramfold::guest::read_command_line;

namespace {
CommandLine with(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "qemu");
  return read_command_line(arguments);
}
}  // namespace

TEST_CASE("words count only where QEMU reads them") {
  CHECK(with({"-incoming", "defer"}).incoming);
  CHECK_FALSE(with({"-name", "incoming"}).incoming);
  CHECK(with({"-object", "{\"qom-type\":\"sev-guest\"}"}).confidential);
  CHECK_FALSE(with({"-name", "sev-guest"}).confidential);
  CHECK(with({"-device", "vhost-user-fs-pci,chardev=c"}).vhost_user);
  CHECK_FALSE(with({"-device", "vhost-vsock-pci"}).vhost_user);
}
