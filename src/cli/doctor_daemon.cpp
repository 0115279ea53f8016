// SPDX-License-Identifier: GPL-2.0-or-later
// The checks of our own processes: daemon and keeper.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "cli/doctor.hpp"
#include "control/names.hpp"

namespace ramfold::cli {
namespace {

using control::CheckOutcome;
using control::KeeperState;
using control::Snapshot;

// Enough for 200 VMs: the daemon and the keeper each need about 20 descriptors for a VM.
constexpr std::uint64_t kFilesMin = 4096;

// By the codes of the daemon's reasons and notices. These have a check of their own, or
// need none: with "memory-plentiful" ramfold works as it is meant to.
constexpr auto kNotOfFolding = std::to_array<std::string_view>(
    {"config", "vm-override", "policy", "state", "starting", "self-test", "no-pin-test",
     "no-keeper", "referenced", "memory-plentiful"});
// Of the others the row is a warning, but for these: folding, or a VM, stands still until somebody
// acts; and it is meant to be so, or ends soon.
constexpr auto kStops =
    std::to_array<std::string_view>({"unusable-vm", "not-recovered", "meminfo"});
constexpr auto kNoFault = std::to_array<std::string_view>({"off", "paused", "recovering"});

bool is_among(const control::Reason& reason, const auto& codes) {
  return std::ranges::find(codes, reason.code) != codes.end();
}

Check check_running(const Asked<Snapshot>& daemon) {
  Check check;
  check.id = "daemon.running";
  check.severity = Severity::problem;
  if (daemon) {
    check.text = fmt::format("the daemon answers: {}", control::name_of(daemon->host.state));
    return check;
  }
  const bool unknown = daemon.error().kind == ClientError::Kind::not_allowed;
  check.outcome = unknown ? Outcome::unknown : Outcome::fail;
  check.text = daemon.error().error.text;
  check.remedy = daemon.error().error.remedy;
  if (!unknown) check.commands = {"systemctl start ramfold"};
  return check;
}

Check check_keeper(const Asked<Snapshot>& daemon) {
  Check check;
  check.id = "daemon.keeper";
  check.severity = Severity::problem;
  if (!daemon) {
    check.outcome = Outcome::unknown;
    check.text = "the daemon could not be asked whether it has a keeper";
    check.remedy = "start the daemon";
  } else if (daemon->host.keeper.state != KeeperState::absent) {
    check.text = fmt::format("the keeper is {}", control::name_of(daemon->host.keeper.state));
  } else {
    check.outcome = Outcome::fail;
    check.text = "no keeper: nothing is folded, since a crash of the daemon would lose it";
    check.remedy = "start it";
    check.commands = {"systemctl start ramfold-keeper"};
  }
  return check;
}

// A failed check for each of the daemon's reasons and notices that has one of these codes. None:
// one check that passed, with the text `well`.
std::vector<Check> check_told(const Asked<Snapshot>& daemon, std::string_view id,
                              std::initializer_list<std::string_view> codes,
                              std::string_view well) {
  Check check;
  check.id = id;
  check.severity = Severity::problem;
  if (!daemon) {
    check.outcome = Outcome::unknown;
    check.text = "the daemon could not be asked";
    check.remedy = "start the daemon";
    return {check};
  }
  std::vector<Check> checks;
  for (const auto* list : {&daemon->host.reasons, &daemon->host.notices}) {
    for (const control::Reason& reason : *list) {
      if (std::ranges::count(codes, reason.code) == 0) continue;
      check.outcome = Outcome::fail;
      check.text = reason.text;
      check.remedy = reason.remedy;
      checks.push_back(check);
    }
  }
  if (checks.empty()) {
    check.text = well;
    checks.push_back(check);
  }
  return checks;
}

std::vector<Check> check_self_test(const Asked<Snapshot>& daemon) {
  Check check;
  check.id = "daemon.self_test";
  check.severity = Severity::problem;
  if (!daemon || daemon->host.self_test.empty()) {
    check.outcome = Outcome::unknown;
    check.text = "the self-test of the kernel has not run";
    check.remedy = "start the daemon, or wait until it has started";
    return {check};
  }
  std::vector<Check> checks;
  for (const control::SelfTestView& test : daemon->host.self_test) {
    if (test.outcome != CheckOutcome::failed) continue;
    check.subject = test.name;
    check.outcome = Outcome::fail;
    check.text = fmt::format("a kernel fact that folding needs does not hold: {}", test.detail);
    check.remedy =
        test.remedy.empty() ? "boot another kernel; until then ramfold only observes" : test.remedy;
    checks.push_back(check);
  }
  if (checks.empty()) {
    check.text = fmt::format("{} facts of the kernel were tried", daemon->host.self_test.size());
    checks.push_back(check);
  }
  return checks;
}

// A row for each reason and notice of the host that no other check tells.
std::vector<Check> check_host_folding(const Asked<Snapshot>& daemon) {
  constexpr std::string_view kId = "daemon.folding";
  std::vector<Check> checks;
  if (daemon) {
    for (const auto* list : {&daemon->host.reasons, &daemon->host.notices}) {
      for (const control::Reason& reason : *list) {
        if (is_among(reason, kNotOfFolding)) continue;
        Check check;
        check.id = kId;
        check.severity = is_among(reason, kStops)     ? Severity::problem
                         : is_among(reason, kNoFault) ? Severity::info
                                                      : Severity::warning;
        check.outcome = Outcome::fail;
        check.text = reason.text;
        check.remedy = reason.remedy;
        checks.push_back(std::move(check));
      }
    }
  }
  if (!checks.empty()) return checks;
  return check_told(daemon, kId, {}, "nothing of the host stands against folding");
}

// Without the source that the configuration wants, ramfold folds, but also pages that guests read.
std::vector<Check> check_referenced(const Asked<Snapshot>& daemon) {
  const std::string well =
      !daemon || daemon->host.referenced.empty() || daemon->host.referenced == "off"
          ? "nobody is asked which pages guests touch (scan.referenced)"
          : fmt::format("which pages guests touch is known by {} (scan.referenced)",
                        daemon->host.referenced);
  std::vector<Check> checks = check_told(daemon, "daemon.referenced", {"referenced"}, well);
  for (Check& check : checks) check.severity = Severity::warning;
  return checks;
}

// proc(5): "Max open files   1024   524288   files".
std::optional<std::uint64_t> soft_file_limit(const HostFiles& host, pid_t pid) {
  const std::string limits = host.of(pid, "limits").value_or("");
  for (const std::string_view line : lines_of(limits)) {
    if (!line.starts_with("Max open files")) continue;
    const auto words = words_of(line);
    if (words.size() < 4) return std::nullopt;
    return words[3] == "unlimited" ? ~std::uint64_t{0} : number_of(words[3]);
  }
  return std::nullopt;
}

std::vector<Check> check_files(const HostFiles& host) {
  std::vector<Check> checks;
  for (const pid_t pid : host.processes()) {
    std::string name = host.of(pid, "comm").value_or("");
    if (name.ends_with('\n')) name.pop_back();
    if (name != "ramfoldd" && name != "ramfold-keeper") continue;
    const auto limit = soft_file_limit(host, pid);
    if (!limit) continue;
    Check check;
    check.id = "daemon.files";
    check.severity = Severity::warning;
    check.subject = fmt::format("{} ({})", name, pid);
    check.text = fmt::format("{} may have {} open files", name, *limit);
    if (*limit < kFilesMin) {
      check.outcome = Outcome::fail;
      check.text += fmt::format(": enough for {} VMs", *limit / 20);
      check.remedy = fmt::format("set LimitNOFILE={} in its unit (systemctl edit {})",
                                 kFilesMin * 4, name == "ramfoldd" ? "ramfold" : name);
      check.commands = {fmt::format("prlimit --pid {} --nofile={}", pid, kFilesMin * 4)};
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace

std::vector<Check> check_daemon(const HostFiles& host, const Asked<Snapshot>& daemon) {
  std::vector<Check> checks{check_running(daemon), check_keeper(daemon)};
  for (Check& check : check_told(daemon, "daemon.config", {"config", "vm-override", "policy"},
                                 "the configuration is valid, and all of it holds")) {
    checks.push_back(std::move(check));
  }
  for (Check& check : check_told(daemon, "daemon.state", {"state"},
                                 "the operator's decisions outlast the daemon")) {
    checks.push_back(std::move(check));
  }
  for (Check& check : check_self_test(daemon)) checks.push_back(std::move(check));
  for (Check& check : check_told(daemon, "daemon.pin_test", {"no-pin-test"},
                                 "the kernel tells which pages a device holds")) {
    checks.push_back(std::move(check));
  }
  for (Check& check : check_referenced(daemon)) checks.push_back(std::move(check));
  for (Check& check : check_host_folding(daemon)) checks.push_back(std::move(check));
  for (Check& check : check_files(host)) checks.push_back(std::move(check));
  return checks;
}

}  // namespace ramfold::cli
