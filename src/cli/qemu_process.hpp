// SPDX-License-Identifier: GPL-2.0-or-later
// The QEMUs that run on a host, with or without the agent, as their command lines tell.
// Threads: pure but for reading files.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cli/host_files.hpp"
#include "cli/qemu_command.hpp"

namespace ramfold::cli {

// "web (pid 123)"; "pid 123" without a name.
std::string label_of(std::string_view name, pid_t pid);

struct Qemu {
  pid_t pid = 0;
  std::string label;  // label_of()
  QemuAdvice advice;
};
// Nothing when the process is not a QEMU that runs a VM.
std::optional<Qemu> qemu_of(const HostFiles& host, pid_t pid);

}  // namespace ramfold::cli
