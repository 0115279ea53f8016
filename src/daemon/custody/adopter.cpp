// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/adopter.hpp"

#include "base/clock.hpp"
#include "daemon/threads/apart.hpp"
#include "scan/plan.hpp"

namespace ramfold::daemon {

Result<VmHandle> Adopter::make(const guest::VmRecord& record, guest::Vm::Files files) {
  return finish(record, std::move(files), History::fresh);
}

Result<VmHandle> Adopter::adopt(KeptVm kept) {
  auto vm = finish(kept.record, std::move(kept.files), History::served_before);
  if (vm) (*vm)->kept.store(true);
  return vm;
}

Result<VmHandle> Adopter::finish(const guest::VmRecord& record, guest::Vm::Files files,
                                 History history) {
  const bool recovering = history == History::served_before;
  auto vm = guest::Vm::make(record, std::move(files));
  if (!vm) return std::unexpected(vm.error());
  // Its userfaultfd may wait for the process when it is closed.
  VmHandle attached(new AttachedVm,
                    [](AttachedVm* ended) { let_go_apart(std::shared_ptr<AttachedVm>(ended)); });
  attached->vm = std::move(*vm);
  attached->policy = config_.for_vm(record.name, record.uuid);
  attached->uuid = record.uuid;
  attached->attached_ns = monotonic_ns();
  attached->let_go.store((record.flags & guest::kRecordLetGo) != 0);
  if ((record.flags & guest::kRecordInconsistent) != 0)
    attached->vm->stop_folding(guest::Inconsistency::earlier);
  attached->incoming_finished.store((record.flags & guest::kRecordIncomingFinished) != 0);
  for (std::uint32_t i = 0; i < record.blocks; ++i) {
    const rf_block& b = record.block[i];
    attached->ram.push_back({{static_cast<dev_t>(b.device), static_cast<ino_t>(b.inode)},
                             HostVirt{b.address},
                             ByteCount{b.size},
                             ByteCount{b.offset}});
  }
  const auto group = contents_.group(record.group);
  if (!group) return std::unexpected(group.error());
  attached->group = *group;
  if (recovering) {
    attached->counted.store(false);
    attached->vm->begin_uncounted();
    attached->vm->gate().reset_runs();
  }
  attached->cursor.next = scan::chunk_count(*attached->vm);  // the first pass begins as any other
  auto faults =
      fault::Server::start(*attached->vm, contents_, attached->group, config_.fault.threads_per_vm);
  if (!faults) return std::unexpected(faults.error());
  attached->faults = std::move(*faults);
  // Events that a dead daemon had read are not sent again (L3).
  if (recovering) attached->vm->wake_all();
  return attached;
}

}  // namespace ramfold::daemon
