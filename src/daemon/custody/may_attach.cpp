// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/may_attach.hpp"

namespace ramfold::daemon {

bool may_attach(const AttachTerms& terms, const VmKey& vm, pid_t pid, std::uint64_t start_ticks) {
  // The VM's group and the operator's decisions about it must be known.
  if (terms.state.off || terms.policy.broken() || terms.decisions.unreadable()) return false;
  if (terms.decisions.since(VmDecision::detached, vm)) return false;
  // A VM that was left behind is taken over later, with its old state.
  return !terms.left_behind.has(pid, start_ticks);
}

}  // namespace ramfold::daemon
