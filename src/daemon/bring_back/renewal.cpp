// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/renewal.hpp"

#include <fmt/format.h>

#include "daemon/log.hpp"

namespace ramfold::daemon {

void Renewal::begin(const VmHandle& vm) {
  if (vm->renewal_due.exchange(true)) return;
  retries_.add({fmt::format("vm {} (id {}): attaching it anew", vm->vm->name(), vm->vm->id().value),
                vm->vm->record().uid,
                [this, vm]() -> Status {
                  log::info("vm {}: QEMU has closed its own userfaultfd: attaching the VM anew",
                            vm->vm->name());
                  const auto done = attach_anew(vm, [](const control::UnfoldProgress&) {});
                  if (!done) return fail(done.error().text + ": " + done.error().remedy);
                  return {};
                },
                [vm] { return vm->is_renewable(); }, [vm](bool) { vm->renewal_due.store(false); },
                0});
}

control::Answer<void> Renewal::attach_anew(const VmHandle& vm,
                                           const control::ProgressSink& progress) {
  const pid_t pid = vm->vm->pid();
  if (auto gone = detach_.run(vm, progress, Afterwards::attached_anew); !gone) return gone;
  // If the agent's connection has ended meanwhile, the agent connects again, and is asked for its
  // RAM then.
  (void)agents_.invite(pid);
  return {};
}

}  // namespace ramfold::daemon
