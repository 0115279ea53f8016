// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/quota.hpp"

#include <fmt/format.h>
#include <map>

#include "base/owner_share.hpp"

namespace ramfold::daemon {
namespace {

ByteCount part_of(ByteCount whole, std::uint64_t part, std::uint64_t parts) noexcept {
  if (parts == 0) return {};
  return ByteCount{static_cast<std::uint64_t>(
      static_cast<double>(whole.value) * static_cast<double>(part) / static_cast<double>(parts))};
}

}  // namespace

std::vector<KeepsVerdict> judge_keeps(std::span<const KeepsOf> vms, const store::Stats& stats,
                                      double vm_kept_factor_max) {
  std::map<GroupId, std::uint64_t> naming;
  for (const KeepsOf& vm : vms) naming[vm.group] += vm.naming;
  std::map<GroupId, ByteCount> stored;
  for (const store::GroupStats& group : stats.groups) {
    for (const store::FormStats& form : group.forms) stored[group.group].value += form.stored.value;
  }
  std::vector<KeepsVerdict> verdicts;
  verdicts.reserve(vms.size());
  std::map<uid_t, std::uint64_t> of_owner;
  std::uint64_t of_all = 0;
  for (const KeepsOf& vm : vms) {
    KeepsVerdict verdict;
    verdict.stored = part_of(stored[vm.group], vm.naming, naming[vm.group]);
    verdict.limit = ByteCount{
        static_cast<std::uint64_t>(static_cast<double>(vm.ram.value) * vm_kept_factor_max)};
    const std::uint64_t keeps = verdict.stored.value + vm.page_table.value + vm.bitmap.value;
    if (keeps > verdict.limit.value) verdict.too_much = TooMuch::of_vm;
    of_owner[vm.account] += verdict.stored.value;
    of_all += verdict.stored.value;
    verdicts.push_back(verdict);
  }
  // An eighth, not half: on most hosts one account runs all VMs.
  const OwnerShare share(stats.arena_max.value, OwnerShare::kEighth);
  for (std::size_t i = 0; i < vms.size(); ++i) {
    const std::uint64_t own = of_owner[vms[i].account];
    if (share.allows(of_all - own, own, 1)) continue;
    if (verdicts[i].too_much == TooMuch::nothing) verdicts[i].too_much = TooMuch::of_owner;
  }
  return verdicts;
}

void KeepsJudge::judge(std::span<const VmHandle> vms, const store::Stats& stats,
                       const policy::Config& config) {
  std::vector<KeepsOf> keeps;
  keeps.reserve(vms.size());
  for (const VmHandle& vm : vms) {
    const guest::VmCounters& c = vm->vm->counters();
    keeps.push_back({ids_.account_of(vm->vm->record().uid), vm->group,
                     c.folded_content.get() + c.clean.get(), backed(vm->vm->files().words),
                     backed(vm->vm->files().shared), bytes(vm->vm->pages())});
  }
  const std::vector<KeepsVerdict> verdicts =
      judge_keeps(keeps, stats, config.host.vm_kept_factor_max);
  for (std::size_t i = 0; i < vms.size(); ++i) {
    Keeps& published = vms[i]->keeps;
    published.page_table.store(keeps[i].page_table.value);
    published.bitmap.store(keeps[i].bitmap.value);
    published.stored.store(verdicts[i].stored.value);
    published.limit.store(verdicts[i].limit.value);
    published.too_much.store(verdicts[i].too_much);
  }
}

std::optional<control::Reason> why_keeps_too_much(const AttachedVm& vm) {
  switch (vm.keeps.too_much.load()) {
    case TooMuch::nothing: break;
    case TooMuch::of_vm:
      return control::Reason{
          "quota",
          fmt::format("it makes ramfold keep {} MiB, its limit is {} MiB: only its pages of zeros "
                      "are folded",
                      vm.keeps.all() >> 20, vm.keeps.limit.load() >> 20),
          "raise host.vm_kept_factor_max"};
    case TooMuch::of_owner:
      return control::Reason{
          "owner-share",
          "the VMs of its owner fill their share of the store: only pages of zeros are folded",
          "raise host.arena_max, or run fewer VMs as this user"};
  }
  return std::nullopt;
}

}  // namespace ramfold::daemon
