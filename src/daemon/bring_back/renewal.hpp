// SPDX-License-Identifier: GPL-2.0-or-later
// A VM may be unfolded because QEMU opens a userfaultfd of its own (for postcopy, a background
// snapshot, or a probe for them). The daemon then promises the agent that nothing will be folded.
// Only a new attachment ends this promise, so the VM is attached anew after QEMU has closed that
// userfaultfd. Between the two attachments the agent stops no calls, and QEMU may open another
// userfaultfd. The first look of the new attachment finds it in /proc, and then nothing is folded.
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

  // Call it when looks have found for a while that the VM is_renewable() and that QEMU has no
  // userfaultfd of its own open.
  void begin(const VmHandle& vm);

 private:
  Status attach_anew(const VmHandle& vm);

  Retries& retries_;
  Detach& detach_;
  AgentAnswers& agents_;
};

}  // namespace ramfold::daemon
