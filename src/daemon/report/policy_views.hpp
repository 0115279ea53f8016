// SPDX-License-Identifier: GPL-2.0-or-later
// What `ramfold policy get` shows.
// Threads: pure functions of the policy at this moment.
#pragma once

#include "control/views.hpp"
#include "daemon/custody/live_policy.hpp"

namespace ramfold::daemon {

control::PolicyView policy_view(const LivePolicy& policy);
control::PolicyView policy_view(const LivePolicy& policy, const AttachedVm& vm, const VmKey& key);

}  // namespace ramfold::daemon
