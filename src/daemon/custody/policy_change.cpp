// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/policy_change.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/printable.hpp"
#include "policy/key_effects.hpp"

namespace ramfold::daemon {
namespace {

using control::Failure;
using policy::KeyProblem;

constexpr std::size_t kValueBytesMax = 63;
// They tell which VM a section of the file is about.
constexpr std::array<std::string_view, 4> kNamesOfVms{"name", "uuid", "user", "uid"};

// Why `key` cannot be set at run time, whatever its value. nullopt: it can, or is not known.
std::optional<KeyProblem> fixed(const std::string& key, bool of_vm, std::string_view file) {
  if (of_vm && std::ranges::find(kNamesOfVms, key) != kNamesOfVms.end()) {
    return KeyProblem{key, "it names a VM in the file, and is no setting",
                      fmt::format("change it in {}", file)};
  }
  const policy::KeyEffect* const effect = of_vm ? nullptr : policy::effect_of(key);
  if (effect == nullptr || effect->takes != policy::Takes::at_start) return std::nullopt;
  return KeyProblem{key, fmt::format("it changes only at a start: {}", effect->how),
                    fmt::format("change it in {}, then `systemctl kill ramfold` makes the daemon "
                                "start anew",
                                file)};
}

// Is `value` allowed for `key`, by itself? An empty one, which takes back, is for every known key.
std::optional<KeyProblem> wrong(const std::string& key, const std::string& value, bool of_vm) {
  policy::Config config;
  policy::VmOverride vm;
  auto problem = of_vm ? policy::set_key(vm, key, value) : policy::set_key(config, key, value);
  const bool known = policy::effect_of(of_vm ? "vm." + key : key) != nullptr;
  if (value.empty() && known) return std::nullopt;
  return problem;
}

bool is_of(const DecisionBook::Set& one, const std::string& key, const std::optional<VmKey>& vm) {
  return one.key == key && one.vm.has_value() == vm.has_value() && (!vm || one.vm->is(*vm));
}

std::string key_of(const std::string& assignment) {
  return assignment.substr(0, assignment.find('='));
}

}  // namespace

std::unexpected<control::OperationError> refuse_key(const KeyProblem& problem) {
  return control::refuse(Failure::bad_request, printable(problem.key + ": " + problem.text),
                         problem.remedy);
}

control::Answer<std::vector<DecisionBook::Set>> with_assignments(
    std::vector<DecisionBook::Set> set, const std::optional<VmKey>& vm,
    std::span<const std::string> assignments, std::string_view file) {
  std::vector<std::string> seen;
  for (const std::string& assignment : assignments) {
    const std::size_t at = assignment.find('=');
    if (at == std::string::npos || at == 0 || assignment.size() - at - 1 > kValueBytesMax) {
      return refuse_key({assignment, "it is no assignment",
                         fmt::format("write KEY=VALUE, with a VALUE of at most {} bytes, or KEY= "
                                     "for the value of the file",
                                     kValueBytesMax)});
    }
    const std::string key = assignment.substr(0, at);
    const std::string value = assignment.substr(at + 1);
    if (const auto problem = fixed(key, vm.has_value(), file)) return refuse_key(*problem);
    if (const auto problem = wrong(key, value, vm.has_value())) return refuse_key(*problem);
    if (std::ranges::find(seen, key) != seen.end()) {
      return refuse_key({key, "it is given twice", "give it once"});
    }
    seen.push_back(key);
    std::erase_if(set, [&](const DecisionBook::Set& one) { return is_of(one, key, vm); });
    if (!value.empty()) set.push_back({key, value, vm});
  }
  return set;
}

std::vector<std::string> taking_back(const std::vector<DecisionBook::Set>& set,
                                     const std::optional<VmKey>& vm,
                                     std::span<const std::string> assignments) {
  std::vector<std::string> back;
  for (const std::string& assignment : assignments) {
    const std::string key = key_of(assignment);
    const auto before = std::ranges::find_if(
        set, [&](const DecisionBook::Set& one) { return is_of(one, key, vm); });
    back.push_back(key + "=" + (before == set.end() ? "" : before->value));
  }
  return back;
}

bool may_change_group(std::span<const std::string> assignments) {
  return std::ranges::any_of(assignments, [](const std::string& assignment) {
    const std::string key = key_of(assignment);
    return key == "group" || key == "share";
  });
}

}  // namespace ramfold::daemon
