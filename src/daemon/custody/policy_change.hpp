// SPDX-License-Identifier: GPL-2.0-or-later
// What `ramfold policy set` asks for: reads the assignments, and refuses what cannot be set.
// Threads: pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "control/service.hpp"
#include "daemon/custody/decisions.hpp"
#include "policy/config_keys.hpp"

namespace ramfold::daemon {

// `set` with the assignments: KEY=VALUE, or KEY= to take the value back. `file`: where the other
// keys are changed, for the remedy. Whether a VALUE fits the other keys is not checked.
control::Answer<std::vector<DecisionBook::Set>> with_assignments(
    std::vector<DecisionBook::Set> set, const std::optional<VmKey>& vm,
    std::span<const std::string> assignments, std::string_view file);

// Assignments that make `set` again of what with_assignments() makes of it.
std::vector<std::string> taking_back(const std::vector<DecisionBook::Set>& set,
                                     const std::optional<VmKey>& vm,
                                     std::span<const std::string> assignments);
// One of the keys decides which trust group a VM has.
bool may_change_group(std::span<const std::string> assignments);

std::unexpected<control::OperationError> refuse_key(const policy::KeyProblem& problem);

}  // namespace ramfold::daemon
