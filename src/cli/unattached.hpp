// SPDX-License-Identifier: GPL-2.0-or-later
// QEMUs that run on this host and that the daemon does not have: their RAM is private, the agent is
// not loaded or has not connected. `ramfold list` shows them below the daemon's VMs, each with the
// reason. Threads: pure but for reading files.
#pragma once

#include <sys/types.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/doctor.hpp"

namespace ramfold::cli {

struct Unattached {
  std::string label;  // "web (pid 123)"
  std::string name;   // may be empty
  pid_t pid = 0;
  std::vector<Check> why;  // at least one, most important first
};
std::vector<Unattached> unattached(const HostFiles& host, const control::Snapshot& daemon);

// Empty when there are none. Lines fit the width of `style`; a longer word stays whole.
std::string render_unattached(const std::vector<Unattached>& those, const Style& style);
// [{"name", "pid", "reasons": [{"id", "text", "remedy"}]}]
nlohmann::json json_of(const std::vector<Unattached>& those);

}  // namespace ramfold::cli
