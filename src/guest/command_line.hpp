// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's command line says about folding. Pure.
// Threads: values.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::guest {

struct CommandLine {
  bool incoming = false;      // -incoming
  bool confidential = false;  // SEV, TDX
  bool vhost_user = false;
};
CommandLine read_command_line(std::span<const std::string> arguments);

}  // namespace ramfold::guest
