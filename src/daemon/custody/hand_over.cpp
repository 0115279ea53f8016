// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/hand_over.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {

bool hand_over(AttachedVm& vm, Keeping& keeping, const store::StoreFiles& store) {
  const Status kept = keeping.keep_vm(*vm.vm, store);
  const int code = kept ? 0 : std::max(kept.error().code, 1);
  const bool news = vm.keep_error.exchange(code) != code;
  if (kept) {
    vm.kept.store(true);
  } else if (news && keeping.connected()) {
    log::error("vm {} (pid {}): the keeper does not hold it, so it is only observed: {}",
               vm.vm->name(), vm.vm->pid(),
               code == EDQUOT ? kept.error().what : kept.error().text());
  }
  return kept.has_value();
}

control::Reason why_not_kept(const AttachedVm& vm) {
  switch (vm.keep_error.load()) {
    case EDQUOT:
      return {
          "owner-share",
          "its owner has used up its share of the keeper's places; the rest is for other owners",
          "run fewer VMs as this user"};
    case ENOSPC:
      return {"keeper-full", "all places of the keeper are taken", "run fewer VMs on this host"};
    default:
      return {"no-keeper", "the keeper does not hold this VM", "systemctl start ramfold-keeper"};
  }
}

bool HandOver::begin() {
  if (under_way_.exchange(true)) return true;
  const bool runs = run_apart([this] {
    work();
    under_way_.store(false);
  });
  if (!runs) under_way_.store(false);
  return runs;
}

HandOver::Keeper HandOver::tend() {
  if (has_work() && !begin() && !under_way_.exchange(true)) {
    work();
    under_way_.store(false);
  }
  if (!keeping_.connected()) return Keeper::absent;
  return keeping_.holds_anothers_store() ? Keeper::anothers : Keeper::ours;
}

bool HandOver::has_work() const {
  if (!keeping_.connected()) return true;
  return std::ranges::any_of(
      vms_.all(), [](const VmHandle& vm) { return !vm->kept && !vm->detached && vm->vm->alive(); });
}

void HandOver::tell_loss() {
  const auto vms = vms_.all();
  const auto observed = std::ranges::count_if(
      vms, [](const VmHandle& vm) { return !vm->detached && vm->vm->alive(); });
  if (observed == 0 || std::exchange(loss_said_, true)) return;
  log::warn("keeper: it is gone, or does not answer: {} VMs are only observed until it is back",
            observed);
}

void HandOver::work() {
  if (!keeping_.connected()) {
    for (const VmHandle& vm : vms_.all()) {
      if (vm->kept.exchange(false)) vm->vm->gate().close();
    }
    if (!keeping_.connect()) return tell_loss();
    loss_said_ = false;
    log::info("keeper: connected");
  }
  if (keeping_.holds_anothers_store()) return;
  for (const VmHandle& vm : vms_.all()) {
    if (vm->kept || vm->detached || !vm->vm->alive()) continue;
    if (!hand_over(*vm, keeping_, store_)) continue;
    // It may have been detached meanwhile.
    if (vm->detached) {
      (void)keeping_.drop_vm(vm->vm->id());
    } else {
      kept_(vm);
    }
  }
}

}  // namespace ramfold::daemon
