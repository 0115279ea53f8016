// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/departures.hpp"

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "store/content_source.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kNapNs = 250'000'000;
constexpr std::uint64_t kMomentNs = 100'000'000;
constexpr unsigned kLastLookWaits = 20;  // of kNapNs

}  // namespace

void Departures::leave_set(const AttachedVm& vm) {
  const MutexLock lock(leaving_mutex_);
  if (vms_.remove(vm.vm->id())) guest::add_events(vm.vm->counters(), gone_);
}

void Departures::take_out(const AttachedVm& vm) {
  leave_set(vm);
  (void)keeping_.drop_vm(vm.vm->id());
}

void Departures::take_out_apart(const AttachedVm& vm) {
  leave_set(vm);
  const auto drop = [this, id = vm.vm->id()] { (void)keeping_.drop_vm(id); };
  if (!run_apart(drop)) drop();
}

std::vector<VmHandle> Departures::all(guest::VmCounters& gone) const {
  const MutexLock lock(leaving_mutex_);
  guest::add_events(gone_, gone);
  return vms_.all();
}

void Departures::tend() {
  const bool keeps = !tend_apart();
  if (keeps && !keeps_said_)
    log::warn("the kernel gives no thread: memory of VMs that have left stays in use for now");
  keeps_said_ = keeps;
}

void Departures::bury_dead() {
  for (const VmHandle& vm : vms_.all()) {
    if (!has_ended(vm->vm->files().pidfd)) continue;
    if (!vm->counted) continue;  // its references are being counted right now
    vm->vm->set_gone();
    vm->vm->gate().close();
    if (vm->unfolding || vm->finding_mappings || vm->mapping.under_way) continue;
    {
      const MutexLock lock(vm->cursor.mutex);
      if (vm->cursor.in_work != 0) continue;
    }
    vm->detached.store(true);
    leave_set(*vm);
    undertaker_.add(vm);
  }
}

// On a thread of its own. A process that shares the memory of the ended process may still hold its
// locks. And it is slow: walking the page table and closing the RAM files (which frees their
// memory) take 0.3 to 0.6 s per GiB.
void Departures::bury(VmHandle vm) {
  vm->faults->stop();
  fault_cpu_ns_.fetch_add(vm->faults->cpu_ns());
  // A turn that began before `detached` was set ends first; a later one does nothing.
  MutexLock mapping(vm->mapping.mutex);
  if (vm->mapping.mapper) (void)vm->mapping.mapper->settle(nullptr);
  vm->mapping.mapper.reset();
  mapping.unlock();
  if (vm->pool) vm->pool->give_all_back();
  std::uint64_t dropped = 0;
  std::uint64_t refused = 0;
  (void)vm->vm->each_speaking([&](PageIndex p) {
    if (stopping_) return false;
    const guest::LoadedWord word = vm->vm->table().load(p);
    if (!word || !word->names_content() || word->content() == kZeroContent) return true;
    const bool done = contents_.drop(vm->group, word->content()) == store::Booked::done;
    ++(done ? dropped : refused);
    return true;
  });
  if (stopping_) return;  // the next daemon counts all references anew
  if (refused != 0) {
    log::error("vm {}: {} references of its page table are unknown to the store", vm->vm->name(),
               refused);
  }
  log::info("vm {} (pid {}): ended; {} references given up", vm->vm->name(), vm->vm->pid(),
            dropped);
  // Waits for other owners: the last owner closes the files, and that should be this thread.
  for (unsigned i = 0; vm.use_count() > 1 && i < kLastLookWaits && !stopping_; ++i)
    sleep_ns(kNapNs);
}

void Departures::let_go(const VmHandle& vm, std::uint64_t patience_ns) {
  (void)stop_faults(vm, patience_ns);
  fault_cpu_ns_.fetch_add(vm->faults->cpu_ns());
  take_out(*vm);
}

bool Departures::forget_unused(const VmHandle& vm) {
  const guest::VmCounters& c = vm->vm->counters();
  if (!vm->counted || vm->agent_ready || vm->unfolding || !vm->vm->mappings_known()) return false;
  if (vm->pool && vm->pool->mapped().value != 0) return false;
  if (c.folded_zero.get() + c.folded_content.get() + c.clean.get() + c.poisoned.get() != 0)
    return false;
  // The next VM may be attached with the same userfaultfd, and only one service may read its
  // events.
  if (!stop_faults(vm, kMomentNs)) return false;
  vm->detached.store(true);
  take_out_apart(*vm);
  return true;
}

}  // namespace ramfold::daemon
