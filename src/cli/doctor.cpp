// SPDX-License-Identifier: GPL-2.0-or-later
// Shows checks as text and as JSON, and checks what this user may look at.
#include "cli/doctor.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "control/view_json.hpp"

namespace ramfold::cli {
namespace {

std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::info: return "info";
    case Severity::warning: return "warning";
    case Severity::problem: return "problem";
  }
  return "?";
}

std::string_view name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::pass: return "pass";
    case Outcome::fail: return "fail";
    case Outcome::unknown: return "unknown";
  }
  return "?";
}

std::string_view word_of(const Check& check) {
  if (check.outcome == Outcome::pass) return "ok";
  return check.outcome == Outcome::unknown ? "unknown" : name_of(check.severity);
}

Colour colour_of(const Check& check) {
  if (check.outcome == Outcome::pass) return Colour::green;
  if (check.outcome == Outcome::unknown || check.severity == Severity::info) return Colour::dim;
  return check.severity == Severity::problem ? Colour::red : Colour::yellow;
}

constexpr std::size_t kIndent = 9;  // columns

// To look into the processes of other users takes CAP_SYS_PTRACE (proc(5)).
bool may_look(const HostFiles& host) {
  constexpr unsigned kCapSysPtrace = 19;
  const std::string status = host.text("/proc/self/status").value_or("");
  for (const std::string_view line : lines_of(status)) {
    const auto words = words_of(line);
    std::uint64_t effective = 0;
    if (words.size() != 2 || words[0] != "CapEff:") continue;
    std::from_chars(words[1].data(), words[1].data() + words[1].size(), effective, 16);
    return (effective >> kCapSysPtrace & 1) != 0;
  }
  return false;
}

}  // namespace

Check check_rights(const HostFiles& host) {
  Check check;
  check.id = "doctor.rights";
  check.severity = Severity::warning;
  if (may_look(host)) {
    check.text = "this user may look at every process";
    return check;
  }
  check.outcome = Outcome::unknown;
  check.text = host.exists("/proc/1/status")
                   ? "this user may not look into the processes of others: of their VMs only the "
                     "command lines are checked"
                   : "this user does not even see the processes of others (hidepid): their VMs are "
                     "not checked";
  check.remedy = "run `ramfold doctor` as root";
  return check;
}

bool found_problems(const std::vector<Check>& checks) {
  return std::any_of(checks.begin(), checks.end(), [](const Check& check) {
    return check.outcome == Outcome::fail && check.severity != Severity::info;
  });
}

std::string render_checks(const std::vector<Check>& checks, Detail detail, const Style& style) {
  std::string out;
  std::size_t passed = 0;
  std::size_t failed = 0;
  std::size_t unknown = 0;
  for (const Check& check : checks) {
    if (check.outcome == Outcome::pass) ++passed;
    if (check.outcome == Outcome::fail && check.severity != Severity::info) ++failed;
    if (check.outcome == Outcome::unknown) ++unknown;
    if (check.outcome == Outcome::pass && detail == Detail::failed_only) continue;
    const std::string word = fmt::format("{:<8}", word_of(check));
    const auto wrapped = [&](const std::string& text, std::size_t at) {
      return wrap(text, style.width(), at, kIndent) + "\n";
    };
    out += style.paint(colour_of(check), word) + " " +
           wrapped(fmt::format("{:<20}", check.id) +
                       (check.subject.empty() ? "" : printable(check.subject) + ": ") +
                       printable(check.text),
                   kIndent);
    if (!check.remedy.empty()) {
      out += std::string(kIndent, ' ') + wrapped("remedy: " + printable(check.remedy), kIndent);
    }
    for (const std::string& command : check.commands) {
      out += "           # " + printable(command) + "\n";
    }
  }
  const std::string good = fmt::format("{} checks passed", passed);
  out += failed + unknown == 0 ? style.paint(Colour::green, good) : good;
  if (failed != 0) out += ", " + style.paint(Colour::red, fmt::format("{} did not", failed));
  if (unknown != 0) {
    out += ", " + style.paint(Colour::yellow, fmt::format("{} could not look", unknown));
  }
  return out + "\n";
}

std::string json_of(const std::vector<Check>& checks) {
  nlohmann::json list = nlohmann::json::array();
  for (const Check& check : checks) {
    list.push_back({{"id", std::string(check.id)},
                    {"subject", check.subject},
                    {"severity", std::string(name_of(check.severity))},
                    {"outcome", std::string(name_of(check.outcome))},
                    {"text", check.text},
                    {"remedy", check.remedy},
                    {"commands", check.commands}});
  }
  return control::text_of({{"checks", list}, {"ok", !found_problems(checks)}}, 2) + "\n";
}

}  // namespace ramfold::cli
