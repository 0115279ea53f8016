// SPDX-License-Identifier: GPL-2.0-or-later
// The line for `systemctl status`: what the daemon does, and how to replace and to end it, because
// its unit refuses `stop` and `restart`.
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "control/views.hpp"

namespace ramfold::daemon {

// `reasons`: why nothing is folded; empty: VMs are folded.
std::string status_line(std::size_t vms, const std::vector<control::Reason>& reasons);

}  // namespace ramfold::daemon
