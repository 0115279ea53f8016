// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_process.hpp"

#include <fmt/core.h>

namespace ramfold::cli {

std::string label_of(std::string_view name, pid_t pid) {
  return name.empty() ? fmt::format("pid {}", pid) : fmt::format("{} (pid {})", name, pid);
}

std::optional<Qemu> qemu_of(const HostFiles& host, pid_t pid) {
  const std::vector<std::string> arguments = host.arguments(pid);
  if (arguments.empty()) return std::nullopt;
  // argv[0] may differ from the name of the file, so both are looked at.
  if (!is_qemu(arguments.front()) && !is_qemu(host.link_of(pid, "exe"))) return std::nullopt;
  Qemu qemu{pid, {}, examine(arguments, [&](const std::string& path) {
              return host.named_by(pid, path);
            })};
  if (qemu.advice.probing) return std::nullopt;
  qemu.label = label_of(qemu.advice.name, pid);
  return qemu;
}

}  // namespace ramfold::cli
