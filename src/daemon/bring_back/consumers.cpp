// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/consumers.hpp"

#include <fmt/format.h>

#include <vector>

#include "base/clock.hpp"
#include "daemon/bring_back/unfold.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {
namespace {

// The agent waits longer than the daemon, so that it gets the refusal.
static_assert(Consumers::kWaitNs < RF_UNFOLD_MS_MAX * 1'000'000ull);
// An attempt ends if no page comes back for this time; it is tried again later.
constexpr std::uint64_t kPatienceNs = 3'000'000'000;
constexpr std::uint64_t kTellEveryNs = 1'000'000'000;

std::string task_name(const AttachedVm& vm) {
  return fmt::format("vm {} (id {}): unfolding for another consumer of its RAM", vm.vm->name(),
                     vm.vm->id().value);
}

}  // namespace

Status Consumers::bring_back(const VmHandle& vm, Reserve reserve) {
  const auto unfolding = std::make_shared<Unfolding>(vm);
  if (!unfolding->first()) {
    tell(*vm);  // tells of the progress of the unfold that runs already
    return fail("its pages are being brought back already", EAGAIN);
  }
  if (!vm->counted) return fail("its pages are still being counted after a restart", EAGAIN);
  if (const auto no = room_.lacking({&vm, 1}, reserve))
    return fail(no->text + ": " + no->remedy, ENOMEM);
  return unfold_apart(unfolding, kPatienceNs, [&](std::uint64_t) { tell(*vm); }, stopping_);
}

void Consumers::tell(const AttachedVm& vm) {
  const std::uint64_t back = vm.came_back.load();
  const guest::VmCounters& counters = vm.vm->counters();
  const std::uint64_t left = counters.folded_content.get() + counters.folded_zero.get() +
                             counters.clean.get() + vm.mapped().value;
  const std::uint64_t now = monotonic_ns();
  struct News {
    std::uint32_t token;
    std::uint64_t done;
  };
  std::vector<News> news;
  {
    const MutexLock lock(mutex_);
    for (Waiting& w : waiting_) {
      if (w.vm != &vm || w.told == back || now - w.told_ns < kTellEveryNs) continue;
      w.told = back;
      w.told_ns = now;
      news.push_back({w.token, back - w.before});
    }
  }
  // A request may have been answered meanwhile; the agent ignores news of such a token.
  for (const News& n : news) agents_.send_unfolding(vm, n.token, n.done, n.done + left);
}

void Consumers::wants_to_begin(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) {
  // Each request counts as one consumer: the refusal of one does not change the others.
  if (vm->consumers.fetch_add(1) == 0) {
    log::warn("vm {}: another consumer of its RAM waits (hazard {:#x}): unfolding", vm->vm->name(),
              hazard);
  }
  std::list<Waiting>::iterator waiting;
  {
    const std::uint64_t back = vm->came_back.load();
    const MutexLock lock(mutex_);
    waiting = waiting_.insert(waiting_.end(), {vm.get(), token, back, back, 0});
  }
  // A consumer would read lost pages as zeros, so it is refused if only lost pages are left.
  vm->only_lost_left.store(false);
  retries_.add({task_name(*vm), vm->vm->record().uid,
                [this, vm] { return bring_back(vm, Reserve::left_alone); },
                [vm] { return vm->vm->alive() && !vm->detached && !vm->only_lost_left; },
                [this, vm, token, hazard, waiting](bool back) {
                  {
                    const MutexLock lock(mutex_);
                    waiting_.erase(waiting);
                  }
                  // A consumer that was allowed counts until the VM is attached anew; a refused one
                  // counts no more. A look at the facts sets consumer_found, not this count.
                  if (!back) vm->consumers.fetch_sub(1);
                  if (back && hazard != RF_HAZARD_OTHER_UFFD) vm->consumer_lasts.store(true);
                  agents_.send_unfolded(*vm, token, back);
                  vm->unfolds_asked.fetch_sub(1);
                },
                wait_ns_, [vm] { return vm->came_back_ns.load(); }});
}

void Consumers::has_begun(const VmHandle& vm) {
  if (vm->consumer_found.exchange(true)) return;
  {
    const MutexLock lock(vm->facts.mutex);
    log::warn("vm {}: {}: unfolding, it will not be folded {}", vm->vm->name(),
              vm->facts.unfolded_for, vm->consumer_lasts ? "again" : "until that has ended");
  }
  // The consumer runs already, so pages are brought back with the reserve too.
  vm->only_lost_left.store(false);
  retries_.add(
      {task_name(*vm), vm->vm->record().uid, [this, vm] { return bring_back(vm, Reserve::used); },
       [vm] { return vm->vm->alive() && !vm->detached && !vm->only_lost_left; }, nullptr, 0});
}

std::optional<Retries::Trouble> Consumers::trouble(const AttachedVm& vm) const {
  return retries_.trouble(task_name(vm));
}

}  // namespace ramfold::daemon
