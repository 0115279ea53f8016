// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/recovery.hpp"

#include <algorithm>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/log.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

namespace {

constexpr std::uint64_t kPauseFirstNs = 250'000'000;
constexpr std::uint64_t kPauseMaxNs = 30'000'000'000;

// After the first walk over all VMs, for all of them together: most faults let go of their page.
constexpr std::uint64_t kPatienceNs = 5'000'000'000;
constexpr std::uint64_t kNapNs = 20'000'000;
constexpr std::uint64_t kLateNapNs = 250'000'000;

}  // namespace

bool Recovery::run() {
  const std::uint64_t began_ns = monotonic_ns();
  for (VmHandle& vm : vms_.all()) {
    if (vm->counted) continue;
    Counting counting(*vm);
    waiting_.push_back({std::move(vm), counting});
  }
  (void)tend();
  const std::uint64_t until_ns = monotonic_ns() + kPatienceNs;
  while (!waiting_.empty() && !stopping_ && monotonic_ns() < until_ns) {
    stopping_.sleep(kNapNs);
    (void)tend();
  }
  TEST_POINT("recovery.counted");
  if (stopping_) return false;
  for (const Waiting& one : waiting_) {
    log::warn(
        "vm {}: a fault holds one of its pages, so it is counted later: it is not folded until "
        "then, and the contents of group {} stay in the store",
        one.vm->vm->name(), one.vm->vm->record().group);
  }
  // A store without VMs is swept too: no word names the last contents that a dead daemon stored.
  if (!adopter_.contents().recovering()) return true;
  if (!recover_store()) return false;
  log::info("store: recovered in {:.1f} ms", static_cast<double>(monotonic_ns() - began_ns) / 1e6);
  return true;
}

void Recovery::count_rest() {
  store::Contents& contents = adopter_.contents();
  while (contents.has_uncounted() && !stopping_) {
    if (tend()) {
      contents.narrow(uncounted());
      TEST_POINT("recovery.narrowed");
    }
    if (contents.has_uncounted()) stopping_.sleep(kLateNapNs);
  }
}

bool Recovery::tend() {
  const auto adopt = [this](KeptVm kept) { return adopt_late(std::move(kept)); };
  const bool fewer_left = left_behind_.tend(keeping_, adopt);
  const std::size_t counted = std::erase_if(waiting_, [this](Waiting& one) {
    if (!one.counting.go_on(adopter_.contents(), stopping_)) return false;
    one.vm.reset();  // gives up this reference, so that the VM may be buried
    return true;
  });
  return fewer_left || counted != 0;
}

// A VM that was left behind is in the fleet, and among those that wait, before it leaves the list
// of those that were left behind. So none is missed here.
store::Uncounted Recovery::uncounted() const {
  store::Uncounted some;
  const auto add = [&some](GroupId group) {
    if (!some.covers(group)) some.groups.push_back(group);
  };
  for (const Waiting& one : waiting_) add(one.vm->group.id());
  for (const LeftBehind::View& one : left_behind_.views()) {
    const auto group = adopter_.contents().group(one.group);
    if (group) add(group->id());
    some.any_group = some.any_group || !group;
  }
  return some;
}

Result<VmHandle> Recovery::adopt_late(KeptVm kept) {
  const pid_t pid = kept.record.pid;
  auto vm = adopter_.adopt(std::move(kept));
  if (!vm) return vm;
  waiting_.push_back({*vm, Counting(**vm)});
  vms_.add(*vm);
  agents_.call_back(pid);
  return vm;
}

bool Recovery::recover_store() {
  const store::Uncounted some = uncounted();
  std::uint64_t pause_ns = kPauseFirstNs;
  for (unsigned attempts = 1; !stopping_; ++attempts) {
    const Status done = adopter_.contents().finish_recovery(some);
    if (done) {
      if (attempts != 1) log::info("store: recovered by {} attempts", attempts);
      return true;
    }
    const std::string why = done.error().text();
    if (attempts == 1) {
      log::error("store: not recovered, nothing is folded until it is: {}: trying again", why);
    }
    {
      const MutexLock lock(mutex_);
      trouble_ = why;
    }
    stopping_.sleep(pause_ns);
    pause_ns = std::min(pause_ns * 2, kPauseMaxNs);
  }
  return false;
}

std::string Recovery::trouble() const {
  const MutexLock lock(mutex_);
  return trouble_;
}

}  // namespace ramfold::daemon
