// SPDX-License-Identifier: GPL-2.0-or-later
// When folded pages must come back: another consumer of a VM's RAM, `detach`, `off`; and the end of
// `off`.
#include <fmt/format.h>

#include "base/clock.hpp"
#include "daemon/bring_back/unfold.hpp"
#include "daemon/host.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {

using control::Answer;
using control::Failure;

namespace {

// A device that is about to begin is held for RF_UNFOLD_MS_MAX, then refused.
constexpr std::uint64_t kConsumerWaitNs = 100'000'000'000;
static_assert(kConsumerWaitNs < RF_UNFOLD_MS_MAX * 1'000'000ull);
constexpr unsigned kCountWaits = 1200;  // of kNapNs: a minute
// For VMs that end, or are unfolded by somebody else, meanwhile.
constexpr unsigned kBusyWaits = 400;
// Without a page that came back: on a host that swaps one takes some ms.
constexpr std::uint64_t kPatienceNs = 20'000'000'000;
constexpr std::uint64_t kRetryPatienceNs =
    3'000'000'000;  // then others have their turn, and it goes on
constexpr std::uint64_t kNapNs = 50'000'000;

std::unexpected<control::OperationError> held_up() {
  return control::refuse(
      Failure::failed, "the VM's process holds the daemon up: its pages do not come back",
      "end the VM, or what holds its memory map or its RAM file: a file system that does "
      "not answer?");
}

}  // namespace

std::string Host::unfold_task(const AttachedVm& vm) {
  return fmt::format("vm {} (id {}): unfolding for another consumer of its RAM", vm.vm->name(),
                     vm.vm->id().value);
}

Status Host::unfold_attached(const VmHandle& vm, Reserve reserve) {
  const auto unfolding = std::make_shared<Unfolding>(vm);
  if (!unfolding->first()) return fail("its pages are being brought back already", EAGAIN);
  if (!vm->counted) return fail("its pages are still being counted after a restart", EAGAIN);
  if (const auto no = no_room_for(*vm, reserve)) return fail(no->text + ": " + no->remedy, ENOMEM);
  return unfold_apart(unfolding, kRetryPatienceNs, [](std::uint64_t) {}, stopping_);
}

void Host::unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) {
  if (!vm->stay_unfolded.exchange(true)) {
    log::warn("vm {}: another consumer of its RAM waits (hazard {:#x}): unfolding", vm->vm->name(),
              hazard);
  }
  retries_.add({unfold_task(*vm), [this, vm] { return unfold_attached(vm, Reserve::left_alone); },
                [vm] { return vm->vm->alive() && !vm->detached; },
                [this, vm, token](bool held) {
                  // Refused, the consumer does not begin; what a look at the facts finds is another
                  // matter.
                  if (!held) vm->stay_unfolded.store(false);
                  agents_->send_unfolded(*vm, token, held);
                  vm->unfolds_asked.fetch_sub(1);
                },
                kConsumerWaitNs});
}

void Host::unfold_for_consumer(const VmHandle& vm) {
  if (vm->stay_unfolded.exchange(true)) return;
  {
    const std::lock_guard lock(vm->facts.mutex);
    log::warn("vm {}: {}: unfolding, it will not be folded again", vm->vm->name(),
              vm->facts.unfolded_for);
  }
  // It is there already, so this is what the reserve is for.
  retries_.add({unfold_task(*vm), [this, vm] { return unfold_attached(vm, Reserve::used); },
                [vm] { return vm->vm->alive() && !vm->detached; }, nullptr, 0});
}

bool Host::wait_counted(const AttachedVm& vm) const {
  for (unsigned i = 0; i < kCountWaits && !vm.counted && !stopping_; ++i) sleep_ns(kNapNs);
  return vm.counted;
}

std::optional<control::OperationError> Host::no_room_for(const AttachedVm& vm,
                                                         Reserve reserve) const {
  const control::UnfoldPlan plan = plan_unfold(vm, memory_for_unfolding(reserve));
  if (plan.missing().value != 0) {
    return control::OperationError{
        Failure::refused, "the host has not enough memory to bring this VM's pages back",
        "free memory (stop or migrate a VM), add swap, or lower host.reserve", plan.missing()};
  }
  const auto headroom = procfs_.memory_headroom(vm.vm->pid());
  if (headroom && *headroom && **headroom < plan.needed) {
    return control::OperationError{
        Failure::refused, "the VM's memory cgroup has not enough room for its own pages",
        "raise the limit of its cgroup", ByteCount{plan.needed.value - (**headroom).value}};
  }
  return std::nullopt;
}

Answer<void> Host::detach(const VmHandle& vm, const control::ProgressSink& progress) {
  const auto unfolding = std::make_shared<Unfolding>(vm);
  if (!unfolding->first()) {
    if (vm->held != 0) return held_up();
    return control::refuse(Failure::conflict, "the VM is being unfolded already",
                           "wait for it to end");
  }
  if (!wait_counted(*vm)) {
    return control::refuse(Failure::conflict, "its pages are still being counted after a restart",
                           "try again");
  }
  if (auto no = no_room_for(*vm, Reserve::left_alone)) return std::unexpected(std::move(*no));
  const PageCount pages = plan_unfold(*vm, ByteCount{}).pages;
  const std::uint64_t began = monotonic_ns();
  const auto tell = [&](std::uint64_t done) {
    const double spent = static_cast<double>(monotonic_ns() - began) / 1e9;
    const double left =
        done == 0 || done >= pages.value
            ? 0
            : spent * static_cast<double>(pages.value - done) / static_cast<double>(done);
    progress({PageCount{std::min(done, pages.value)}, pages, left});
  };
  if (Status done = unfold_apart(unfolding, kPatienceNs, tell, stopping_); !done) {
    if (done.error().code == ETIMEDOUT) return held_up();
    return control::refuse(Failure::failed, done.error().text(),
                           "the VM is attached and served as before");
  }
  // Its words still name contents; who buries it gives those up.
  if (!vm->vm->alive()) return control::refuse(Failure::conflict, "the VM has ended", "");
  vm->detached.store(true);
  agents_->send_detached(*vm);
  (void)stop_faults(vm, kPatienceNs);
  retired_fault_cpu_ns_.fetch_add(vm->faults->cpu_ns());
  vms_.remove(vm->vm->id());
  (void)keeping_.drop_vm(vm->vm->id());
  log::info("vm {}: detached", vm->vm->name());
  judge_memory();
  return {};
}

Answer<void> Host::off(const control::ProgressSink& progress) {
  policy_.off.store(true);
  judge_memory();
  agents_->finish_offers();
  Answer<void> done = bring_all_back(progress);
  if (!done && policy_.off && !off_retried_.exchange(true)) {
    retries_.add({kOffTask,
                  [this]() -> Status {
                    const auto again = bring_all_back([](const control::UnfoldProgress&) {});
                    return again ? Status{}
                                 : fail(again.error().text + ": " + again.error().remedy);
                  },
                  [this] { return policy_.off && !policy_.off_done; },
                  [this](bool) { off_retried_.store(false); }, 0});
  }
  judge_memory();
  return done;
}

Answer<void> Host::bring_all_back(const control::ProgressSink& progress) {
  const std::lock_guard lock(off_mutex_);
  if (!policy_.off) return control::refuse(Failure::conflict, "folding was resumed meanwhile", "");
  if (policy_.off_done) return {};
  for (unsigned waits = 0; vms_.size() != 0; ++waits) {
    std::size_t held = 0;
    for (const VmHandle& vm : vms_.all()) {
      if (has_ended(vm->vm->files().pidfd)) continue;
      // What came back stays back; the rest is attached and served, and nothing more is folded.
      auto done = detach(vm, progress);
      if (done || !vm->vm->alive()) continue;
      if (vm->held != 0) {
        ++held;  // the others need not wait for it
      } else if (done.error().failure != Failure::conflict) {
        return done;
      }
    }
    if (held != 0 && held == vms_.size()) return held_up();
    if (stopping_ || waits == kBusyWaits) {
      return control::refuse(Failure::failed,
                             "some VMs are busy: being unfolded, or cleared away after their end",
                             "try again");
    }
    if (vms_.size() != 0) sleep_ns(kNapNs);
  }
  undertaker_.drain();
  if (Status dropped = keeping_.drop_store(); !dropped) {
    return control::refuse(
        Failure::failed,
        "everything is back, but the keeper still holds the store: " + dropped.error().text(),
        "systemctl start ramfold-keeper");
  }
  contents_->trim_all();
  policy_.off_done.store(true);
  log::info("off: everything is back, nothing of any VM is held any more");
  return {};
}

Answer<void> Host::end_off() {
  const std::unique_lock lock(off_mutex_, std::try_to_lock);
  if (!lock) {
    return control::refuse(Failure::conflict, "everything is being brought back",
                           "wait for `ramfold off` to end");
  }
  policy_.off_done.store(false);
  if (policy_.off.exchange(false)) {
    for (const WaitingAgent& agent : agents_->waiting()) (void)agents_->invite(agent.pid);
  }
  judge_memory();
  return {};
}

ByteCount Host::memory_for_unfolding(Reserve reserve) const {
  const auto memory = procfs_.memory_info();
  if (!memory) return ByteCount{0};
  // Swap counts here: these pages may be swapped like any other, and they have to come back.
  const std::uint64_t have = memory->available.value + memory->swap_free.value;
  const std::uint64_t kept =
      reserve == Reserve::used ? 0 : config_.host.reserve.resolve(memory->total).value;
  return ByteCount{have - std::min(have, kept)};
}

}  // namespace ramfold::daemon
