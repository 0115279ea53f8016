// SPDX-License-Identifier: GPL-2.0-or-later
// The keys of the configuration as a table. ramfold(1) documents the output.
// Threads: pure functions.
#pragma once

#include <string>

#include "cli/text.hpp"
#include "control/views.hpp"

namespace ramfold::cli {

std::string render_policy(const control::PolicyView& policy, const Style& style);

}  // namespace ramfold::cli
