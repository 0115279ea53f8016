// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/select_vm.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>
#include <vector>

namespace ramfold::daemon {

using control::Failure;

control::Answer<std::size_t> select_vm(std::span<const VmLabel> vms, std::string_view text) {
  const auto place = [&](const auto& vm) { return static_cast<std::size_t>(vm - vms.begin()); };
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size()) {
    const auto by_id = std::ranges::find(vms, std::optional(VmId{number}), &VmLabel::id);
    if (by_id != vms.end()) return place(by_id);
    const auto by_pid = std::ranges::find(vms, static_cast<pid_t>(number), &VmLabel::pid);
    if (by_pid != vms.end()) return place(by_pid);
  }
  std::vector<std::size_t> found;
  std::string pids;
  for (const VmLabel& vm : vms) {
    if (vm.name != text && (vm.uuid.empty() || vm.uuid != text)) continue;
    found.push_back(static_cast<std::size_t>(&vm - vms.data()));
    pids += fmt::format("{}{}", pids.empty() ? "" : ", ", vm.pid);
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return control::refuse(Failure::not_found, fmt::format("there is no VM '{}'", text),
                           "`ramfold list` shows names, ids and pids");
  }
  return control::refuse(
      Failure::conflict, fmt::format("{} VMs are called '{}': pids {}", found.size(), text, pids),
      fmt::format("name one by its pid ({} for the first) or by the id that `ramfold list` shows",
                  vms[found.front()].pid));
}

}  // namespace ramfold::daemon
