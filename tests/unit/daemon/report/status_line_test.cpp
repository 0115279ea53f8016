// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/status_line.hpp"

#include <catch2/catch.hpp>

using ramfold::daemon::status_line;

TEST_CASE("the unit's status tells what the daemon does, and how to replace and end it") {
  CHECK(status_line(1, {}).starts_with("1 VM, folding; "));
  const std::string idle =
      status_line(3, {{"memory-plentiful", "idle: memory plentiful", ""}, {"x", "other", ""}});
  CHECK(idle.starts_with("3 VMs, not folding: idle: memory plentiful; "));
  CHECK(idle.find("systemctl reload ramfold; end: ramfold off first") != std::string::npos);
  CHECK(idle.find('\n') == std::string::npos);
}
