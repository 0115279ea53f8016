// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/take_over.hpp"

#include <systemd/sd-daemon.h>
#include <algorithm>

#include "base/test_points.hpp"
#include "daemon/log.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {
namespace {

// Less than TimeoutStartSec of ramfoldd's unit.
constexpr std::uint64_t kKeeperPatienceNs = 60'000'000'000;
constexpr std::uint64_t kArenaMax = std::uint64_t{1} << 40;  // limit of the store's format

// Notes the remains in the VM's record, so that the next daemon knows of them too.
void note_remains(KeptVm& kept, const std::optional<Remains>& remains) {
  if (!remains || std::ranges::count(remains->vms, VmId{kept.record.vm}) == 0) return;
  kept.record.left_by_pid = remains->pid;
  kept.record.left_by_start = remains->start_ticks;
  const Status noted = guest::note_left_by(kept.files.record, remains->pid, remains->start_ticks);
  if (!noted) log::error("vm {}: {}", kept.record.vm, noted.error().text());
}

Result<std::unique_ptr<store::Contents>> new_store(const sys::Procfs& procfs,
                                                   const policy::Config& config) {
  const auto memory = procfs.memory_info();
  const ByteCount total = memory ? memory->total : ByteCount{kArenaMax};
  return store::Contents::create(
      ByteCount{std::min(kArenaMax, config.host.arena_max.resolve(total).value)});
}

}  // namespace

Result<TakenOver> take_over(Keeping& keeping, const sys::Procfs& procfs,
                            const policy::Config& config) {
  TakenOver taken;
  const Status connected = keeping.connect_patiently(kKeeperPatienceNs, [] {
    log::warn("keeper: it is there and does not answer yet: waiting");
    (void)::sd_notify(0, "STATUS=waiting for the keeper, which does not answer yet");
  });
  if (connected) {
    auto inherited = keeping.inherit();
    if (!inherited) return std::unexpected(inherited.error());
    taken.left = std::move(*inherited);
  } else {
    log::warn("keeper: {}: nothing will be folded until it is there", connected.error().text());
  }
  TEST_POINT("recovery.inherited");
  const bool inherits = taken.left.store.has_value();
  if (!inherits && (!taken.left.vms.empty() || !taken.left.unusable.empty())) {
    return fail(
        "the keeper holds VMs without a store: run `ramfold doctor`; their pages cannot be served");
  }
  auto contents =
      inherits ? store::Contents::adopt(std::move(*taken.left.store)) : new_store(procfs, config);
  if (!contents) return std::unexpected(contents.error());
  taken.contents = std::move(*contents);
  taken.left.store.reset();
  return taken;
}

std::size_t adopt_all(Inheritance left, const std::optional<Remains>& remains, Adopter& adopter,
                      VmSet& vms, LeftBehind& left_behind) {
  for (const std::string& dropped : left.dropped)
    log::warn("{}: dropped, nothing of it was folded", dropped);
  for (KeptVm& kept : left.vms) {
    note_remains(kept, remains);
    if (left_behind.is_held(kept.record)) {
      left_behind.add_held(std::move(kept));
      continue;
    }
    const VmId id{kept.record.vm};
    const std::string group = kept.record.group;
    auto pidfd = kept.files.pidfd.duplicate();
    auto vm = adopter.adopt(std::move(kept));
    TEST_POINT("recovery.vm");
    if (vm) {
      vms.add(*vm);
    } else {
      left_behind.add(
          {id, vm.error().text(), group, pidfd ? std::move(*pidfd) : sys::Fd{}, std::nullopt});
    }
  }
  for (UnusableVm& vm : left.unusable) left_behind.add(std::move(vm));
  return vms.size();
}

}  // namespace ramfold::daemon
