// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/hand_over.hpp"

#include "daemon/log.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

void HandOver::complain(const std::string& text) {
  if (text != complaint_) log::error("keeper: {}", text);
  complaint_ = text;
}

HandOver::Keeper HandOver::tend() {
  if (!keeping_.connected()) {
    for (const VmHandle& vm : vms_.all()) {
      if (vm->kept.exchange(false)) vm->vm->gate().close();
    }
    if (!keeping_.connect()) return Keeper::absent;
    log::info("keeper: connected");
  }
  if (keeping_.holds_anothers_store()) return Keeper::anothers;
  for (const VmHandle& vm : vms_.all()) {
    if (vm->kept || vm->detached || !vm->vm->alive()) continue;
    if (Status kept = keeping_.keep_vm(*vm->vm, contents_); !kept) {
      complain("did not take vm " + vm->vm->name() + ": " + kept.error().text());
      continue;
    }
    vm->kept.store(true);
    // It may have been let go of meanwhile.
    if (vm->detached) (void)keeping_.drop_vm(vm->vm->id());
  }
  return Keeper::ours;
}

}  // namespace ramfold::daemon
