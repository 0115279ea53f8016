// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/unattached.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/qemu_process.hpp"

namespace ramfold::cli {
namespace {

// These checks are about an attached VM; they do not keep a VM from being attached.
bool is_of_attached(const Check& check) {
  return check.id == "vm.cgroup" || check.id == "vm.mappings" || check.id == "vm.map";
}

// Why the running daemon does not have the VM: the checks that failed, then the unknown ones.
std::vector<Check> why_not(std::vector<Check> checks) {
  std::erase_if(checks, [](const Check& check) {
    return check.outcome == Outcome::pass || is_of_attached(check);
  });
  std::ranges::stable_partition(checks,
                                [](const Check& check) { return check.outcome == Outcome::fail; });
  if (checks.empty()) {
    Check silent;
    silent.id = "vm.agent";
    silent.outcome = Outcome::unknown;
    silent.text = "the agent is loaded, and has offered no RAM to the daemon";
    silent.remedy = "look for the agent's line in QEMU's stderr or log, and at the daemon's log";
    checks.push_back(std::move(silent));
  }
  return checks;
}

}  // namespace

std::vector<Unattached> unattached(const HostFiles& host, const control::Snapshot& daemon) {
  std::vector<Unattached> found;
  for (const pid_t pid : host.processes()) {
    const auto is_it = [&](const control::VmView& vm) { return vm.pid == pid; };
    if (std::ranges::any_of(daemon.vms, is_it)) continue;
    const auto qemu = qemu_of(host, pid);
    if (!qemu) continue;
    found.push_back({qemu->label, qemu->advice.name, pid, why_not(check_vm(host, pid))});
  }
  return found;
}

std::string render_unattached(const std::vector<Unattached>& those, const Style& style) {
  if (those.empty()) return {};
  std::string out = style.paint(Colour::bold, "QEMUs that the daemon does not have") + "\n";
  for (const Unattached& one : those) {
    const std::string more =
        one.why.size() > 1 ? fmt::format(" (+{} more: `ramfold doctor`)", one.why.size() - 1) : "";
    const Check& first = one.why.front();
    const std::string text = printable(first.text) + more;
    const std::string remedy = printable(first.remedy);
    out += wrap("  " + printable(one.label), style.width(), 0, 4) + "\n";
    out += wrap("    why: " + text, style.width(), 0, 6) + "\n";
    out += wrap("    remedy: " + remedy, style.width(), 0, 6) + "\n";
  }
  return out;
}

nlohmann::json json_of(const std::vector<Unattached>& those) {
  nlohmann::json list = nlohmann::json::array();
  for (const Unattached& one : those) {
    nlohmann::json reasons = nlohmann::json::array();
    for (const Check& check : one.why) {
      reasons.push_back(
          {{"id", std::string(check.id)}, {"text", check.text}, {"remedy", check.remedy}});
    }
    list.push_back({{"name", one.name}, {"pid", one.pid}, {"reasons", std::move(reasons)}});
  }
  return list;
}

}  // namespace ramfold::cli
