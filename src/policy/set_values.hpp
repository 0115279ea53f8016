// SPDX-License-Identifier: GPL-2.0-or-later
// Values that the operator set at run time, on top of those of the file (`ramfold policy set`).
// A value set for a VM becomes an override of its own, which names the VM and its owner and so wins
// over the file's sections.
// Threads: pure functions and values; the user database is read where a section names a user.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "policy/config_keys.hpp"
#include "policy/targets.hpp"

namespace ramfold::policy {

// Key and value, as typed.
using Values = std::map<std::string, std::string, std::less<>>;
struct VmValues {
  std::string name;
  std::string uuid;  // empty: it has none, and is known by its name
  std::uint32_t uid = 0;
  Values values;  // keys without "vm."
};
struct SetValues {
  Values host;
  std::vector<VmValues> vms;
};

struct WithSetValues {
  Config config;
  std::vector<KeyProblem> problems;  // values that do not hold
};
WithSetValues with_set_values(const Config& file, const SetValues& set, UidOf uid_of = uid_of_user);

}  // namespace ramfold::policy
