// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon tells of each VM that it has: why the VM is not folded.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>

#include "cli/doctor.hpp"
#include "cli/qemu_process.hpp"
#include "control/names.hpp"

namespace ramfold::cli {
namespace {

using control::Reason;
using control::VmState;

// By the codes of reasons. Of every other reason the row is a warning.
// With these ramfold works as it is meant to: there is no row.
constexpr std::array<std::string_view, 4> kRegulation{"memory-plentiful", "stall-budget",
                                                      "resident-floor", "held-pages"};
// The operator wants it so: the row is information.
constexpr std::array<std::string_view, 3> kDecided{"paused", "policy", "detached"};
// The VM is damaged: the row is a problem.
constexpr std::array<std::string_view, 3> kDamage{"lost_pages", "inconsistent", "let-go"};
// The same for every VM: kernel.fold, daemon.self_test and daemon.pin_test tell it once.
constexpr std::array<std::string_view, 3> kOfKernel{"kernel_too_old", "self_test_failed",
                                                    "no_pin_test"};

bool is_among(const Reason& reason, const auto& codes) {
  return std::ranges::find(codes, reason.code) != codes.end();
}
bool is_told_by(const Reason& reason, const std::vector<Reason>& others) {
  return std::ranges::find(others, reason.code, &Reason::code) != others.end();
}

Severity severity_of(const Reason& reason) {
  if (is_among(reason, kDamage)) return Severity::problem;
  return is_among(reason, kDecided) ? Severity::info : Severity::warning;
}

std::vector<Check> check_one(const HostFiles& host, const control::HostView& of_host,
                             const control::VmView& vm) {
  const auto pid = static_cast<pid_t>(vm.pid);
  const std::optional<Qemu> qemu = qemu_of(host, pid);
  Check check;
  check.id = "vm.folding";
  check.subject = label_of(vm.name, pid);
  std::vector<Check> checks;
  bool elsewhere = false;
  for (const Reason& reason : vm.reasons) {
    if (is_among(reason, kRegulation)) continue;
    // Of the command line vm.command tells it, of the host the checks of the daemon.
    if (is_among(reason, kOfKernel) || is_told_by(reason, of_host.reasons) ||
        (qemu && is_told_by(reason, qemu->advice.reasons))) {
      elsewhere = true;
      continue;
    }
    check.outcome = Outcome::fail;
    check.severity = severity_of(reason);
    check.text = reason.text;
    check.remedy = reason.remedy;
    checks.push_back(check);
  }
  if (elsewhere || !checks.empty()) return checks;
  if (vm.state == VmState::observe_only || vm.state == VmState::attaching) {
    check.outcome = Outcome::unknown;
    check.text = fmt::format("{}: the daemon has not told why yet", control::name_of(vm.state));
    check.remedy = "ask again in a few seconds";
  } else {
    check.text =
        fmt::format("{}: nothing of its own stands against folding it", control::name_of(vm.state));
  }
  return {check};
}

}  // namespace

std::vector<Check> check_folding(const HostFiles& host, const control::Snapshot& daemon) {
  std::vector<Check> checks;
  for (const control::VmView& vm : daemon.vms) {
    for (Check& check : check_one(host, daemon.host, vm)) checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace ramfold::cli
