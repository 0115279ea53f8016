// SPDX-License-Identifier: GPL-2.0-or-later
// Attaches a VM anew: all of its pages come back, the daemon lets go of it, and its agent offers
// its RAM again. There are two reasons.
//   - Its trust group changes. It shares pages until it is detached, so it gets the new group with
//     the new attachment.
//   - QEMU opened a userfaultfd of its own (for postcopy, a background snapshot, or a probe for
//     them), and has closed it. The daemon had promised the agent that nothing will be folded. Only
//     a new attachment ends this promise.
// Between the two attachments the agent stops no calls, and QEMU may open another userfaultfd. The
// first look of the new attachment finds it in /proc, and then nothing is folded.
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
  // On return the VM is detached, and its agent was asked for its RAM. An error: it is attached and
  // served as before.
  control::Answer<void> attach_anew(const VmHandle& vm, const control::ProgressSink& progress);

 private:
  Retries& retries_;
  Detach& detach_;
  AgentAnswers& agents_;
};

}  // namespace ramfold::daemon
