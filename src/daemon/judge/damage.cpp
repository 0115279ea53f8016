// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/damage.hpp"

#include <fmt/format.h>
#include <string_view>

#include "daemon/log.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {
namespace {

using guest::Inconsistency;

std::string_view text_of(Inconsistency what) noexcept {
  switch (what) {
    case Inconsistency::none: break;
    case Inconsistency::transition:
      return "a word of its page table was to make a forbidden change";
    case Inconsistency::moved: return "a word of its page table changed by itself";
    case Inconsistency::references:
      return "its page table names contents that its group does not have";
    case Inconsistency::group: return "the references of its group do not add up";
    case Inconsistency::slots: return "the notes on what its pages map do not add up";
    case Inconsistency::earlier:
      return "a daemon before this one found its page state inconsistent";
  }
  return "";
}

}  // namespace

void add_damage(const AttachedVm& vm, std::vector<guest::Reason>& reasons) {
  if (const std::uint64_t lost = vm.lost(); lost != 0) {
    reasons.push_back(guest::reason_of(
        guest::ReasonCode::lost_pages,
        fmt::format("{} of its pages are lost: their contents in the store, or their words in its "
                    "page table, were damaged",
                    lost)));
  }
  if (const Inconsistency what = vm.vm->inconsistency(); what != Inconsistency::none) {
    reasons.push_back(
        guest::reason_of(guest::ReasonCode::inconsistent, std::string(text_of(what))));
  }
}

void tend_damage(AttachedVm& vm, const store::Contents& contents) {
  guest::Vm& state = *vm.vm;
  if (contents.is_stopped(vm.group)) state.stop_folding(Inconsistency::group);
  if (const std::uint64_t lost = vm.lost(); lost != 0 && !vm.lost_said.exchange(true)) {
    log::error(
        "vm {} (pid {}): {} pages are lost so far: an access to them gets a memory error; the VM "
        "is not folded any more",
        state.name(), state.pid(), lost);
  }
  const std::uint64_t damaged = state.counters().damaged_words.get();
  if (damaged != 0 && !vm.damaged_said.exchange(true)) {
    log::error(
        "vm {} (pid {}): {} damaged words of its page table were found so far: does the host "
        "have memory errors?",
        state.name(), state.pid(), damaged);
  }
  const Inconsistency what = state.inconsistency();
  if (what == Inconsistency::none || vm.inconsistent_said.exchange(true)) return;
  log::error("vm {} (pid {}): {}: it is served and not folded any more", state.name(), state.pid(),
             text_of(what));
  // The next daemon counts the group's references anew and asks the kernel what pages map, so
  // `group` and `slots` need no note. Damage of one VM's table it may not find again, so the VM's
  // record notes it.
  if (what == Inconsistency::group || what == Inconsistency::slots ||
      what == Inconsistency::earlier) {
    return;
  }
  if (Status noted = state.note_flags(guest::kRecordInconsistent); !noted)
    log::error("vm {}: {}", state.name(), noted.error().text());
}

}  // namespace ramfold::daemon
