// SPDX-License-Identifier: GPL-2.0-or-later
// What a predecessor left: store and VMs, and those VMs that cannot be served, or not yet.
#include <fmt/format.h>
#include <algorithm>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/custody/recovery.hpp"
#include "daemon/host.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kNapNs = 100'000'000;
constexpr std::uint64_t kArenaMax = std::uint64_t{1} << 40;  // what the store's format allows

sys::Fd copy_of(const sys::Fd& pidfd) {
  auto copy = pidfd.duplicate();
  return copy ? std::move(*copy) : sys::Fd{};
}

}  // namespace

// The path to the first fault: keeper, store, VMs; nothing that grows with the size of RAM.
Status Host::take_over() {
  std::optional<Inheritance> left;
  if (Status connected = keeping_.connect(); connected) {
    auto inherited = keeping_.inherit();
    if (!inherited) return std::unexpected(inherited.error());
    left = std::move(*inherited);
  } else {
    log::warn("keeper: {}: nothing will be folded until it is there", connected.error().text());
  }
  TEST_POINT("recovery.inherited");
  const bool inherits = left && left->store;
  if (inherits) {
    auto contents = store::Contents::adopt(std::move(*left->store));
    if (!contents) return std::unexpected(contents.error());
    contents_ = std::move(*contents);
  } else {
    if (left && (!left->vms.empty() || !left->unusable.empty())) {
      return fail(
          "the keeper holds VMs without a store: run `ramfold doctor`; their pages cannot be "
          "served");
    }
    const auto memory = procfs_.memory_info();
    const ByteCount total = memory ? memory->total : ByteCount{kArenaMax};
    const ByteCount arena{std::min(kArenaMax, config_.host.arena_max.resolve(total).value)};
    auto contents = store::Contents::create(arena);
    if (!contents) return std::unexpected(contents.error());
    contents_ = std::move(*contents);
  }
  attacher_ = std::make_unique<Attacher>(*contents_, keeping_, config_, features_);
  if (left) {
    attacher_->number_after(left->last);
    adopt_all(std::move(*left));
  }
  return {};
}

bool Host::is_left(const guest::VmRecord& record) const {
  return record.left_by_pid != 0 && is_there(procfs_, record.left_by_pid, record.left_by_start);
}

void Host::adopt_all(Inheritance left) {
  for (const std::string& dropped : left.dropped)
    log::warn("{}: dropped, nothing of it was folded", dropped);
  for (KeptVm& kept : left.vms) {
    note_remains(kept);
    if (is_left(kept.record)) {
      left.unusable.push_back(held_vm(std::move(kept)));
      continue;
    }
    const VmId id{kept.record.vm};
    sys::Fd pidfd = copy_of(kept.files.pidfd);
    auto vm = attacher_->adopt(std::move(kept));
    TEST_POINT("recovery.vm");
    if (vm) {
      vms_.add(*vm);
    } else {
      left.unusable.push_back({id, vm.error().text(), std::move(pidfd), std::nullopt});
    }
  }
  // Kept where they are: a later daemon may be able to serve them. Their faults wait; they never
  // read zeros.
  for (const UnusableVm& vm : left.unusable)
    log::error("vm {}: not taken over: {}", vm.id.value, vm.why);
  unusable_ = std::move(left.unusable);
  if (vms_.size() != 0) {
    ++restarts_;
    log::info("took over {} VMs; faults are served {:.1f} ms after the start", vms_.size(),
              static_cast<double>(monotonic_ns() - started_ns_) / 1e6);
  }
}

// In the record, so that the daemon after this one knows it too.
void Host::note_remains(KeptVm& kept) const {
  const auto& remains = lock_.remains;
  if (!remains || std::ranges::count(remains->vms, VmId{kept.record.vm}) == 0) return;
  kept.record.left_by_pid = remains->pid;
  kept.record.left_by_start = remains->start_ticks;
  const Status noted = guest::note_left_by(kept.files.record, remains->pid, remains->start_ticks);
  if (!noted) log::error("vm {}: {}", kept.record.vm, noted.error().text());
}

UnusableVm Host::held_vm(KeptVm kept) {
  return {VmId{kept.record.vm},
          fmt::format("it holds up a thread of a daemon that has ended but for that (pid {})",
                      kept.record.left_by_pid),
          copy_of(kept.files.pidfd), std::move(kept)};
}

bool Host::wait_for_unusable() {
  while (!stopping_) {
    std::vector<VmId> ended;
    std::vector<VmId> let_go;
    bool none = false;
    {
      const std::lock_guard lock(unusable_mutex_);
      std::erase_if(unusable_, [&](const UnusableVm& vm) {
        if (!vm.pidfd || !has_ended(vm.pidfd)) return false;
        ended.push_back(vm.id);
        return true;
      });
      for (const UnusableVm& vm : unusable_) {
        if (vm.held && !is_left(vm.held->record)) let_go.push_back(vm.id);
      }
      none = unusable_.empty();
    }
    for (const VmId id : ended) {
      log::info("vm {}: ended", id.value);
      (void)keeping_.drop_vm(id);
    }
    for (const VmId id : let_go) adopt_late(id);
    if (none) return true;
    sleep_ns(kNapNs);
  }
  return false;
}

// What was left of the daemon before has ended, and with it what it did to this VM.
void Host::adopt_late(VmId id) {
  KeptVm kept;
  {
    const std::lock_guard lock(unusable_mutex_);
    // Its record stays there: until the VM is added it is what keeps wanted() from taking an offer.
    kept = std::move(*std::ranges::find(unusable_, id, &UnusableVm::id)->held);
  }
  const pid_t pid = kept.record.pid;
  auto vm = attacher_->adopt(std::move(kept));
  if (vm) vms_.add(*vm);
  {
    // After it was added: an agent is asked for an offer only by who finds it in neither.
    const std::lock_guard lock(unusable_mutex_);
    const auto it = std::ranges::find(unusable_, id, &UnusableVm::id);
    if (vm) {
      unusable_.erase(it);
    } else {
      it->why = vm.error().text();
      it->held.reset();
    }
  }
  if (!vm) {
    log::error("vm {}: not taken over: {}", id.value, vm.error().text());
    return;
  }
  log::info("vm {} (pid {}): taken over, the daemon before has ended", id.value, pid);
  agents_->call_back(pid);
  (void)count_references(**vm, *contents_, stopping_);
}

}  // namespace ramfold::daemon
