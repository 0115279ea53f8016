// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/left_behind.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>

#include "daemon/log.hpp"

namespace ramfold::daemon {

bool LeftBehind::is_held(const guest::VmRecord& record) const {
  return record.left_by_pid != 0 && is_there(procfs_, record.left_by_pid, record.left_by_start);
}

void LeftBehind::add(UnusableVm vm) {
  log::error("vm {}: not taken over: {}", vm.id.value, vm.why);
  const MutexLock lock(mutex_);
  vms_.push_back(std::move(vm));
}

void LeftBehind::add_held(KeptVm kept) {
  auto pidfd = kept.files.pidfd.duplicate();
  const std::string group = kept.record.group;
  add({VmId{kept.record.vm},
       fmt::format("it holds up the last thread of an earlier daemon (pid {})",
                   kept.record.left_by_pid),
       group, pidfd ? std::move(*pidfd) : sys::Fd{}, std::move(kept)});
}

bool LeftBehind::has(pid_t pid, std::uint64_t start_ticks) const {
  const MutexLock lock(mutex_);
  return std::ranges::any_of(vms_, [&](const UnusableVm& vm) {
    return vm.held && vm.held->record.pid == pid && vm.held->record.start_time == start_ticks;
  });
}

std::vector<LeftBehind::View> LeftBehind::views() const {
  const MutexLock lock(mutex_);
  std::vector<View> views;
  views.reserve(vms_.size());
  for (const UnusableVm& vm : vms_) views.push_back({vm.id, vm.why, vm.group, vm.held.has_value()});
  return views;
}

bool LeftBehind::tend(Keeping& keeping, const Adopt& adopt) {
  std::vector<VmId> ended;
  std::vector<VmId> let_go;
  {
    const MutexLock lock(mutex_);
    std::erase_if(vms_, [&](const UnusableVm& vm) {
      if (!vm.pidfd || !has_ended(vm.pidfd)) return false;
      ended.push_back(vm.id);
      return true;
    });
    for (const UnusableVm& vm : vms_) {
      if (vm.held && !is_held(vm.held->record)) let_go.push_back(vm.id);
    }
  }
  for (const VmId id : ended) {
    log::info("vm {}: ended", id.value);
    (void)keeping.drop_vm(id);
  }
  bool fewer = !ended.empty();
  for (const VmId id : let_go) fewer = adopt_late(id, adopt) || fewer;
  return fewer;
}

// The rest of the earlier daemon has ended, so none of its calls can change this VM any more.
bool LeftBehind::adopt_late(VmId id, const Adopt& adopt) {
  KeptVm kept;
  {
    const MutexLock lock(mutex_);
    // Its record stays here until the VM is in the fleet: has() reads it, so that the VM's agent is
    // not asked for an offer.
    kept = std::move(*std::ranges::find(vms_, id, &UnusableVm::id)->held);
  }
  const pid_t pid = kept.record.pid;
  const auto vm = adopt(std::move(kept));
  {
    const MutexLock lock(mutex_);
    const auto it = std::ranges::find(vms_, id, &UnusableVm::id);
    if (vm) {
      vms_.erase(it);
    } else {
      it->why = vm.error().text();
      it->held.reset();
    }
  }
  if (vm) {
    log::info("vm {} (pid {}): taken over, the daemon before has ended", id.value, pid);
  } else {
    log::error("vm {}: not taken over: {}", id.value, vm.error().text());
  }
  return vm.has_value();
}

void mark_left_behind(const std::vector<VmHandle>& vms, const sys::Procfs& procfs) {
  const auto start_ticks = procfs.start_ticks(::getpid());
  for (const VmHandle& vm : vms) {
    bool in_work = false;
    {
      const MutexLock lock(vm->cursor.mutex);
      in_work = vm->cursor.in_work != 0;
    }
    // If only a look at /proc is held up, nothing of the VM can change.
    const bool mapping = vm->finding_mappings || vm->mapping.under_way;
    if (!in_work && !vm->unfolding && !mapping && vm->faults_stopped) continue;
    log::warn(
        "vm {} (pid {}): holds up a thread of this daemon, so this daemon cannot end; no daemon "
        "serves the VM until it releases the thread",
        vm->vm->name(), vm->vm->pid());
    const Status noted =
        guest::note_left_by(vm->vm->files().record, ::getpid(), start_ticks.value_or(0));
    if (!noted) log::error("vm {}: {}", vm->vm->name(), noted.error().text());
  }
}

}  // namespace ramfold::daemon
