// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/adopter.hpp"

#include <cstring>

#include "base/clock.hpp"
#include "base/printable.hpp"
#include "daemon/custody/mapping_recovery.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "policy/targets.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {
namespace {

// Makes a text of a record printable, in place.
template <std::size_t size>
void make_printable(char (&text)[size]) {
  text[size - 1] = 0;
  const std::string shown(cut_text(printable(text), size - 1));
  std::memcpy(text, shown.c_str(), shown.size() + 1);
}

}  // namespace

Result<VmHandle> Adopter::make(const guest::VmRecord& record, guest::Vm::Files files) {
  return finish(record, std::move(files), History::fresh);
}

Result<VmHandle> Adopter::adopt(KeptVm kept) {
  // An older version stored names without a check.
  make_printable(kept.record.name);
  make_printable(kept.record.uuid);
  auto vm = finish(kept.record, std::move(kept.files), History::served_before);
  if (vm) (*vm)->kept.store(true);
  return vm;
}

Result<VmHandle> Adopter::finish(const guest::VmRecord& record, guest::Vm::Files files,
                                 History history) {
  const bool recovering = history == History::served_before;
  auto vm = guest::Vm::make(record, std::move(files));
  if (!vm) return std::unexpected(vm.error());
  // Closing its userfaultfd may wait for the process.
  VmHandle attached(new AttachedVm,
                    [](AttachedVm* ended) { let_go_apart(std::unique_ptr<AttachedVm>(ended)); });
  attached->vm = std::move(*vm);
  attached->uuid = policy::normal_uuid(record.uuid);
  const auto config = config_.get();
  attached->targets.store(policy::vm_targets(*config, claim_of(*attached)));
  // Before its controller has decided for the first time nothing is folded.
  attached->allowance.give_nothing();
  // If the operator decided to detach it, it is not folded until the detach is done or the decision
  // is taken back.
  const VmKey key = key_of(decisions_, *attached);
  attached->paused.store(decisions_.since(VmDecision::paused, key) ||
                         decisions_.since(VmDecision::detached, key));
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
  auto group = contents_.group(record.group);
  if (!group) return std::unexpected(group.error());
  attached->group = std::move(*group);
  attached->pool =
      std::make_unique<fold::VmPool>(contents_, attached->group, attached->vm->pages());
  if (recovering) {
    attached->counted.store(false);
    attached->vm->begin_uncounted();
    attached->vm->set_mappings_known(false);
    // Without it the VM is served all the same; the search for mappings tries again.
    if (Status opened = open_known_pool(*attached, contents_); !opened)
      log::error("vm {}: {}", attached->vm->name(), opened.error().text());
    attached->vm->gate().reset_runs();
  }
  {
    // Makes claim_of() begin the first pass.
    const MutexLock lock(attached->cursor.mutex);
    attached->cursor.next = scan::chunk_count(*attached->vm);
  }
  auto faults = fault::Server::start(fault_pool_, *attached->vm, contents_, attached->group,
                                     config->fault.threads_per_vm);
  if (!faults) return std::unexpected(faults.error());
  attached->faults = std::move(*faults);
  // Events that a dead daemon had read are not sent again (L3).
  if (recovering) attached->vm->wake_all();
  return attached;
}

VmKey key_of(const Decisions& decisions, const AttachedVm& vm) {
  const guest::VmRecord& record = vm.vm->record();
  return decisions.key_of(record.name, vm.uuid, record.uid, record.pid, record.start_time);
}

}  // namespace ramfold::daemon
