// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/mappings.hpp"

#include <linux/capability.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/custody/mapping_recovery.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "store/contents.hpp"
#include "sys/capabilities.hpp"
#include "sys/thread_name.hpp"
#include "sys/vma_query.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kFindAgainNs = 1'000'000'000;    // after an attempt that failed
constexpr std::uint64_t kForgetEveryNs = 5'000'000'000;  // pools of groups that are gone

// Its agent knows commands to map, and says that its process may map.
bool is_capable(AttachedVm& vm) {
  const MutexLock lock(vm.facts.mutex);
  return (vm.facts.capabilities & RF_CAP_MAPPING) != 0;
}

// With one of these a process gets a descriptor of the pool that can write, although it was given
// one that can read: it may open the file against its mode; or change the mode, the owner, or its
// own uid to the owner's; or give a program of its own such a capability. Others (CAP_SYS_PTRACE,
// CAP_SYS_ADMIN, CAP_SYS_RAWIO) may lead to the memory of every process of the host. They do so
// with and without a pool.
bool could_write_pool(pid_t pid) {
  const auto has = sys::capabilities_of(pid);
  if (!has) return true;
  constexpr std::array kWriters{CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,
                                CAP_SETUID, CAP_SETPCAP,      CAP_SETFCAP};
  return std::ranges::any_of(kWriters,
                             [&](int capability) { return (*has >> capability & 1) != 0; });
}

}  // namespace

bool kernel_can_map(const sys::Procfs& procfs) {
  const auto version = procfs.kernel_version();
  if (!version || !version->at_least(6, 12)) return false;
  const sys::VmaQuery self(::getpid(), sys::BorrowedFd(-1));
  const auto range = self.at(HostVirt{reinterpret_cast<std::uint64_t>(&self)});
  return range && *range;
}

std::optional<control::Reason> why_not_mapped(const AttachedVm& vm) {
  const auto because = [](std::string text, std::string remedy) {
    return control::Reason{"no-mapping", "no page is shared while it is read: " + std::move(text),
                           std::move(remedy)};
  };
  switch (vm.map_obstacle.load()) {
    case MapObstacle::off: return std::nullopt;
    case MapObstacle::nothing: break;
    case MapObstacle::kernel:
      return because("this kernel cannot say what an address maps, or is older than Linux 6.12",
                     "boot Linux 6.12 or newer");
    case MapObstacle::root:
      if (vm.vm->record().uid != ::geteuid()) {
        return because(
            "QEMU has a capability of root's with which it could write to pages of other VMs",
            "run QEMU without CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETUID, CAP_SETPCAP and "
            "CAP_SETFCAP (getpcaps tells which it has)");
      }
      return because("QEMU runs as root, so it could write to pages of other VMs",
                     "run QEMU as another user");
    case MapObstacle::agent:
      return because("its agent is not there, or is of a version that cannot map",
                     "restart the VM with this version's agent");
    case MapObstacle::store:
      return because("the store was made by an older version",
                     "`ramfold off`, then restart ramfold: the next store can");
    case MapObstacle::keeper:
      return because("the keeper does not hold the VM, or the pages that would be shared",
                     "systemctl start ramfold-keeper");
    case MapObstacle::not_known:
      return because("which of its pages are shared already is not known since the last start",
                     "wait until its agent answers; if that does not help, restart the VM");
    case MapObstacle::stops: return because("the VM is not folded at the moment", "");
    case MapObstacle::failed:
      return because("there is no memory or no descriptor for it", "it is tried again by itself");
  }
  switch (vm.mapping.not_now.load()) {
    case MapsNot::maps: break;
    case MapsNot::no_proof:
      return because("the kernel cannot be asked who holds the copies of such pages",
                     "see the log of the daemon's start");
    case MapsNot::no_agent: return because("its agent does not answer", "wait");
    case MapsNot::no_room:
      return because("QEMU has nearly as many mappings as a process may have",
                     "raise vm.max_map_count, for example to 1048576, and restart ramfold");
  }
  return std::nullopt;
}

Mappings::Mappings(Parts parts) : p_(parts), kernel_can_(kernel_can_map(parts.procfs)) {}

void Mappings::tend() {
  const std::uint64_t now = monotonic_ns();
  const bool again = now >= found_again_ns_.load();
  for (const VmHandle& vm : p_.vms.all()) {
    if (again) find(vm);
    const MapObstacle now_there = obstacle_of(*vm);
    // An obstacle that work() has met stays until work() has tried again.
    const MapObstacle before = vm->map_obstacle;
    const bool met = before == MapObstacle::store || before == MapObstacle::failed ||
                     before == MapObstacle::keeper || before == MapObstacle::root;
    if (now_there != MapObstacle::nothing || !met || vm->pool_sent)
      vm->map_obstacle.store(now_there);
  }
  if (!has_work() || under_way_.exchange(true)) return;
  const bool runs = run_apart([this] {
    work();
    under_way_.store(false);
  });
  if (!runs) under_way_.store(false);
}

void Mappings::fenced(const VmHandle& vm) {
  vm->fenced.store(true);
  find(vm);
}

// Begins to find out what the pages of this VM map, unless that is known or under way.
void Mappings::find(const VmHandle& vm) {
  if (vm->vm->mappings_known() || !vm->fenced || !vm->counted || !vm->vm->alive() || p_.stopping)
    return;
  if (vm->unnamed_mappings) return;  // they stay so until the VM ends
  if (vm->finding_mappings.exchange(true)) return;
  const bool runs = run_apart([this, vm] {
    sys::name_this_thread(vm->vm->id(), "maps");
    if (!vm->vm->mappings_known()) {
      const auto found = recover_mappings(*vm, p_.contents, p_.stopping);
      if (found) {
        vm->unnamed_mappings.store(!found->all_known());
        log::info("vm {}: {} pages map the pool, {} were about to or had been put back",
                  vm->vm->name(), found->mapped, found->left);
      } else {
        found_again_ns_.store(monotonic_ns() + kFindAgainNs);
      }
    }
    vm->finding_mappings.store(false);
  });
  if (!runs) vm->finding_mappings.store(false);
}

MapObstacle Mappings::obstacle_of(AttachedVm& vm) const {
  if (!vm.targets.load().map) return MapObstacle::off;
  if (!kernel_can_) return MapObstacle::kernel;
  if (vm.vm->record().uid == ::geteuid()) return MapObstacle::root;
  if (!vm.kept) return MapObstacle::keeper;
  if (!vm.agent_ready || !is_capable(vm)) return MapObstacle::agent;
  if (!vm.vm->mappings_known()) return MapObstacle::not_known;
  if (vm.detached || vm.let_go || vm.unfolding || vm.stays_unfolded() || !vm.vm->alive() ||
      vm.vm->inconsistency() != guest::Inconsistency::none) {
    return MapObstacle::stops;
  }
  return MapObstacle::nothing;
}

bool Mappings::has_work() const {
  if (p_.state.recovering || p_.stopping) return false;
  if (groups_left_ || monotonic_ns() >= forget_due_ns_.load()) return true;
  return std::ranges::any_of(p_.vms.all(), [&](const VmHandle& vm) {
    return !vm->pool_sent && obstacle_of(*vm) == MapObstacle::nothing;
  });
}

void Mappings::work() {
  settle_groups();
  for (const VmHandle& vm : p_.vms.all()) {
    if (p_.stopping) return;
    if (vm->pool_sent || obstacle_of(*vm) != MapObstacle::nothing) continue;
    vm->map_obstacle.store(open(*vm));
  }
  if (monotonic_ns() < forget_due_ns_.load()) return;
  // A VM that is not counted may map a pool that only another daemon can use.
  if (!p_.contents.has_uncounted()) {
    if (const auto files = p_.contents.pool_files()) (void)p_.keeping.forget_pools_but(*files);
  }
  forget_due_ns_.store(monotonic_ns() + kForgetEveryNs);
}

// The mappings of a group are known when those of all its VMs are: of VMs that have ended, too. A
// group with VMs that this daemon does not serve yet waits (has_uncounted). The store is asked
// before the set of VMs: a VM is in the set before its group counts as counted.
void Mappings::settle_groups() {
  if (!unknown_) {
    const auto files = p_.contents.pool_files();
    if (!files) return;
    unknown_.emplace();
    for (const store::PoolFile& pool : *files) unknown_->push_back(pool.group);
  }
  std::vector<GroupId> counted = *unknown_;
  std::erase_if(counted, [&](GroupId group) { return p_.contents.has_uncounted(group); });
  const std::vector<VmHandle> vms = p_.vms.all();
  std::erase_if(*unknown_, [&](GroupId group) {
    if (std::ranges::find(counted, group) == counted.end()) return false;
    for (const VmHandle& vm : vms) {
      if (vm->group.id() == group && !vm->vm->mappings_known()) return false;
    }
    return p_.contents.mappings_known(group).has_value();
  });
  groups_left_.store(!unknown_->empty());
}

// Opens the VM's pool, and gives it to the VM's agent.
MapObstacle Mappings::open(AttachedVm& vm) {
  if (could_write_pool(vm.vm->pid())) return MapObstacle::root;
  auto files = p_.contents.pool(vm.group);
  if (!files) {
    switch (files.error().code) {
      case ENOTSUP: return MapObstacle::store;
      case EAGAIN: return MapObstacle::not_known;  // of a VM that is not counted
      default: return MapObstacle::failed;
    }
  }
  if (!p_.keeping.keep_pool(files->kept, *vm.vm)) return MapObstacle::keeper;
  if (!vm.pool->is_open()) {
    if (Status opened = vm.pool->open(std::move(files->read_only)); !opened)
      return MapObstacle::failed;
  }
  if (!p_.agents.send_pool(vm)) return MapObstacle::agent;
  TEST_POINT("map.pool");
  return MapObstacle::nothing;
}

}  // namespace ramfold::daemon
