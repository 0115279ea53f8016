// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/printable.hpp"
#include "daemon/bring_back/unfold.hpp"

namespace ramfold::daemon {

using control::Failure;

namespace {

struct Need {
  const AttachedVm& vm;
  ByteCount memory;
};

std::unexpected<control::OperationError> too_full(const std::string& cgroup,
                                                  const std::vector<const AttachedVm*>& vms,
                                                  ByteCount missing) {
  if (vms.size() > 1) {
    return control::refuse(
        Failure::refused,
        fmt::format("the memory cgroup {} has not enough room for the pages of its {} VMs",
                    printable(cgroup), vms.size()),
        "raise its limit", missing);
  }
  const guest::Vm& vm = *vms.front()->vm;
  return control::refuse(
      Failure::refused,
      fmt::format("the memory cgroup of vm {} (id {}) has not enough room for its own pages",
                  printable(vm.name()), vm.id().value),
      "raise the limit of its cgroup", missing);
}

// Refused where a memory cgroup has not enough room for its VMs. Of several such cgroups it tells
// the one that misses most.
control::Answer<void> check_cgroups(const sys::Procfs& procfs, const std::vector<Need>& needs) {
  struct Charged {
    ByteCount headroom;
    ByteCount needed;
    std::vector<const AttachedVm*> vms;
    ByteCount missing() const { return ByteCount{needed.value - std::min(needed, headroom).value}; }
  };
  std::map<std::string, Charged> charged;  // by the cgroup's path
  for (const Need& need : needs) {
    const auto cgroups = procfs.limited_cgroups(need.vm.vm->pid());
    if (!cgroups) continue;
    for (const sys::LimitedCgroup& cgroup : *cgroups) {
      Charged& here =
          charged.try_emplace(cgroup.path, Charged{cgroup.headroom, {}, {}}).first->second;
      here.needed.value += need.memory.value;
      here.vms.push_back(&need.vm);
    }
  }
  const auto worst = std::ranges::max_element(
      charged, {}, [](const auto& entry) { return entry.second.missing(); });
  if (worst == charged.end() || worst->second.missing().value == 0) return {};
  return too_full(worst->first, worst->second.vms, worst->second.missing());
}

}  // namespace

ByteCount Room::available(Reserve reserve) const {
  const auto memory = procfs_.memory_info();
  if (!memory) return ByteCount{0};
  return policy::room_for_unfolding(policy::host_targets(*config_.get(), memory->total),
                                    {memory->available, memory->disk_swap_free}, reserve);
}

control::Answer<control::UnfoldPlan> Room::plan(std::span<const VmHandle> vms,
                                                Reserve reserve) const {
  control::UnfoldPlan sum;
  sum.available = available(reserve);
  std::vector<Need> needs;
  for (const VmHandle& vm : vms) {
    const control::UnfoldPlan one = plan_unfold(*vm, sum.available, read_ns_(vm->group));
    sum.pages.value += one.pages.value;
    sum.needed.value += one.needed.value;
    sum.seconds += one.seconds;
    if (one.needed.value != 0) needs.push_back({*vm, one.needed});
  }
  if (sum.missing().value != 0) return sum;
  if (auto done = check_cgroups(procfs_, needs); !done) return std::unexpected(done.error());
  return sum;
}

std::optional<control::OperationError> Room::lacking(std::span<const VmHandle> vms,
                                                     Reserve reserve) const {
  const auto planned = plan(vms, reserve);
  if (!planned) return planned.error();
  if (planned->missing().value == 0) return std::nullopt;
  return control::OperationError{
      Failure::refused,
      fmt::format("the host has not enough memory to bring {} back",
                  vms.size() == 1 ? "this VM's pages" : "the pages of all VMs"),
      "free memory (stop or migrate a VM), add swap, or lower host.reserve", planned->missing()};
}

}  // namespace ramfold::daemon
