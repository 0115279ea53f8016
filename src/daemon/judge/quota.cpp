// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/quota.hpp"

#include <fmt/format.h>
#include <map>

#include "base/owner_share.hpp"
#include "daemon/fleet/tables_share.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {
namespace {

ByteCount part_of(ByteCount whole, std::uint64_t part, std::uint64_t parts) noexcept {
  if (parts == 0) return {};
  return ByteCount{static_cast<std::uint64_t>(
      static_cast<double>(whole.value) * static_cast<double>(part) / static_cast<double>(parts))};
}

ByteCount notes_of(AttachedVm& vm) {
  std::uint64_t notes = vm.vm->table().owners_in_memory().value;
  if (vm.pool) notes += vm.pool->tables().value;
  const MutexLock lock(vm.cursor.mutex);
  if (vm.cursor.history) notes += vm.cursor.history->in_memory().value;
  if (vm.cursor.rests) notes += vm.cursor.rests->in_memory().value;
  return ByteCount{notes};
}

ByteCount whole_pages(ByteCount size) noexcept {
  return ByteCount{(size.value + kPageSize - 1) / kPageSize * kPageSize};
}

}  // namespace

ByteCount notes_max(PageCount pages) noexcept {
  const std::size_t chunks =
      (pages.value + guest::kChunkPages.value - 1) / guest::kChunkPages.value;
  return ByteCount{
      guest::PageTable::owners_size(pages).value + whole_pages(scan::History::size(pages)).value +
      whole_pages(scan::Rests::size(chunks)).value + fold::VmPool::tables_max(pages).value};
}

std::vector<KeepsVerdict> judge_keeps(std::span<const KeepsOf> vms, const store::Stats& stats,
                                      const KeepsLimits& limits) {
  std::map<GroupId, std::uint64_t> naming;
  for (const KeepsOf& vm : vms) naming[vm.group] += vm.naming;
  std::map<GroupId, ByteCount> stored;
  for (const store::GroupStats& group : stats.groups) {
    for (const store::FormStats& form : group.forms) stored[group.group].value += form.stored.value;
  }
  std::vector<KeepsVerdict> verdicts;
  verdicts.reserve(vms.size());
  struct Sum {
    std::uint64_t stored = 0;
    std::uint64_t tables = 0;
  };
  std::map<uid_t, Sum> of_owner;
  Sum of_all;
  for (const KeepsOf& vm : vms) {
    KeepsVerdict verdict;
    verdict.stored = part_of(stored[vm.group], vm.naming, naming[vm.group]);
    const PageCount pages{vm.ram.value >> kPageShift};
    verdict.limit = ByteCount{
        static_cast<std::uint64_t>(static_cast<double>(vm.ram.value) * limits.vm_kept_factor_max) +
        guest::PageTable::words_size(pages).value + guest::PageTable::shared_size(pages).value +
        notes_max(pages).value};
    const std::uint64_t tables = vm.page_table.value + vm.bitmap.value + vm.notes.value;
    if (verdict.stored.value + tables > verdict.limit.value) verdict.too_much = TooMuch::of_vm;
    for (Sum* sum : {&of_owner[vm.account], &of_all}) {
      sum->stored += verdict.stored.value;
      sum->tables += tables;
    }
    verdicts.push_back(verdict);
  }
  // The reserve for other owners is an eighth, not half: on most hosts one account runs all VMs.
  const OwnerShare store(stats.arena_max.value, OwnerShare::kEighth);
  const OwnerShare tables = tables_share(limits.host_ram);
  for (std::size_t i = 0; i < vms.size(); ++i) {
    const Sum own = of_owner[vms[i].account];
    TooMuch& too_much = verdicts[i].too_much;
    if (!tables.allows(of_all.tables - own.tables, own.tables, 1)) {
      too_much = TooMuch::of_tables;
    } else if (too_much == TooMuch::nothing &&
               !store.allows(of_all.stored - own.stored, own.stored, 1)) {
      too_much = TooMuch::of_owner;
    }
  }
  return verdicts;
}

void KeepsJudge::judge(std::span<const VmHandle> vms, const store::Stats& stats,
                       const KeepsLimits& limits) {
  std::vector<KeepsOf> keeps;
  keeps.reserve(vms.size());
  for (const VmHandle& vm : vms) {
    const guest::VmCounters& c = vm->vm->counters();
    keeps.push_back({ids_.account_of(vm->vm->record().uid), vm->group,
                     c.folded_content.get() + c.clean.get() + vm->mapped().value,
                     backed(vm->vm->files().words), backed(vm->vm->files().shared), notes_of(*vm),
                     bytes(vm->vm->pages())});
  }
  const std::vector<KeepsVerdict> verdicts = judge_keeps(keeps, stats, limits);
  for (std::size_t i = 0; i < vms.size(); ++i) {
    Keeps& published = vms[i]->keeps;
    published.page_table.store(keeps[i].page_table.value);
    published.bitmap.store(keeps[i].bitmap.value);
    published.notes.store(keeps[i].notes.value);
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
    case TooMuch::of_tables:
      return control::Reason{
          "owner-share",
          "the page tables of its owner's VMs take their share of the host's memory: nothing more "
          "of it is folded",
          "run fewer VMs as this user, or give them less RAM"};
  }
  return std::nullopt;
}

}  // namespace ramfold::daemon
