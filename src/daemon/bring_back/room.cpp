// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/room.hpp"

#include <fmt/format.h>

#include "base/printable.hpp"
#include "daemon/bring_back/unfold.hpp"

namespace ramfold::daemon {

using control::Failure;

ByteCount Room::available(Reserve reserve) const {
  const auto memory = procfs_.memory_info();
  if (!memory) return ByteCount{0};
  return policy::room_for_unfolding(policy::host_targets(*config_.get(), memory->total),
                                    {memory->available, memory->disk_swap_free}, reserve);
}

control::Answer<control::UnfoldPlan> Room::plan(const AttachedVm& vm, Reserve reserve) const {
  const control::UnfoldPlan plan = plan_unfold(vm, available(reserve), read_ns_(vm.group));
  if (plan.missing().value != 0) return plan;
  const auto headroom = procfs_.memory_headroom(vm.vm->pid());
  if (headroom && *headroom && **headroom < plan.needed) {
    return control::refuse(
        Failure::refused,
        fmt::format("the memory cgroup of vm {} (id {}) has not enough room for its own pages",
                    printable(vm.vm->name()), vm.vm->id().value),
        "raise the limit of its cgroup", ByteCount{plan.needed.value - (**headroom).value});
  }
  return plan;
}

std::optional<control::OperationError> Room::lacking(const AttachedVm& vm, Reserve reserve) const {
  const auto planned = plan(vm, reserve);
  if (!planned) return planned.error();
  if (planned->missing().value == 0) return std::nullopt;
  return control::OperationError{
      Failure::refused, "the host has not enough memory to bring this VM's pages back",
      "free memory (stop or migrate a VM), add swap, or lower host.reserve", planned->missing()};
}

}  // namespace ramfold::daemon
