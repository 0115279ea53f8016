// SPDX-License-Identifier: GPL-2.0-or-later
// What the checks look like.
#include "cli/doctor.hpp"

#include <fmt/core.h>

#include <algorithm>
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

}  // namespace

bool found_problems(const std::vector<Check>& checks) {
  return std::any_of(checks.begin(), checks.end(), [](const Check& check) {
    return check.outcome == Outcome::fail && check.severity != Severity::info;
  });
}

std::string render_checks(const std::vector<Check>& checks, Detail detail, const Style& style) {
  std::string out;
  std::size_t passed = 0;
  std::size_t failed = 0;
  for (const Check& check : checks) {
    if (check.outcome == Outcome::pass) ++passed;
    if (check.outcome == Outcome::fail && check.severity != Severity::info) ++failed;
    if (check.outcome == Outcome::pass && detail == Detail::failed_only) continue;
    const std::string word = fmt::format("{:<8}", word_of(check));
    out += style.paint(colour_of(check), word) + " " + fmt::format("{:<20}", check.id) +
           (check.subject.empty() ? "" : printable(check.subject) + ": ") + printable(check.text) +
           "\n";
    if (!check.remedy.empty()) out += "         remedy: " + printable(check.remedy) + "\n";
    for (const std::string& command : check.commands) {
      out += "           # " + printable(command) + "\n";
    }
  }
  out += failed == 0 ? style.paint(Colour::green, fmt::format("{} checks passed", passed))
                     : fmt::format("{} checks passed, {}", passed,
                                   style.paint(Colour::red, fmt::format("{} did not", failed)));
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
