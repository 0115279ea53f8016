// SPDX-License-Identifier: GPL-2.0-or-later
// A VM that was unfolded for a userfaultfd of QEMU's own (postcopy, a background snapshot, or a
// probe for them) is attached anew once none is open: only that takes back the promise, made to its
// agent, that nothing will be folded. While its agent stands before nothing, QEMU may open another
// one: the first look of the new attachment finds that one in /proc, and folds nothing.
// Threads: any.
#pragma once

#include "daemon/bring_back/detach.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/fleet/agent_answers.hpp"

namespace ramfold::daemon {

class Renewal {
 public:
  // REQUIRES: all outlive this.
  Renewal(Retries& retries, Detach& detach, AgentAnswers& agents) noexcept
      : retries_(retries), detach_(detach), agents_(agents) {}

  // Looks have found for a while that the VM is_renewable(), and that QEMU has no userfaultfd of
  // its own open.
  void begin(const VmHandle& vm);

 private:
  Status attach_anew(const VmHandle& vm);

  Retries& retries_;
  Detach& detach_;
  AgentAnswers& agents_;
};

}  // namespace ramfold::daemon
