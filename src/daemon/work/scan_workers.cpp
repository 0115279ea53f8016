// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/scan_workers.hpp"

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "daemon/threads/nap.hpp"
#include "sys/priority.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kIdleNapNs = 20'000'000;
constexpr std::uint64_t kBurstNs = 50'000'000;  // what an idle time may be saved up for
// A chunk takes milliseconds; a host that swaps, or gives idle threads no time, loses nothing by
// it.
constexpr std::uint64_t kHeldNs = 5'000'000'000;
constexpr std::uint64_t kStopNs = 3'000'000'000;
// A store that was found full is asked to take nothing new for so long.
constexpr std::uint64_t kStoreFullRestNs = 5'000'000'000;

}  // namespace

ScanWorkers::ScanWorkers(VmSet& vms, store::Contents& contents, HostState& host,
                         const policy::Config& config)
    : vms_(vms), contents_(contents), host_(host), config_(config) {}

ScanWorkers::~ScanWorkers() { stop(); }

void ScanWorkers::start() {
  const std::lock_guard lock(mutex_);
  while (workers_.size() < config_.scan.threads && add_worker()) {
  }
}

bool ScanWorkers::add_worker() {
  const auto worker = std::make_shared<Worker>();
  running_.fetch_add(1);
  const bool runs = run_apart([this, worker] {
    sys::name_this_thread("rf-fold");
    run(*worker);
    running_.fetch_sub(1);
  });
  if (runs) {
    workers_.push_back(worker);
  } else {
    running_.fetch_sub(1);  // tend() tries again
  }
  return runs;
}

void ScanWorkers::stop() noexcept {
  stopping_.store(true);
  const std::uint64_t began_ns = monotonic_ns();
  while (running_.load() != 0 && monotonic_ns() - began_ns < kStopNs) sleep_ns(kIdleNapNs);
}

void ScanWorkers::tend() {
  const std::lock_guard lock(mutex_);
  if (stopping_.load()) return;
  const std::uint64_t now = monotonic_ns();
  for (const auto& worker : workers_) {
    if (!worker->at || now - worker->since_ns < kHeldNs) continue;
    worker->replaced = true;
    AttachedVm& vm = *worker->at;
    vm.held.fetch_add(1);
    if (vm.held_said.exchange(true)) continue;
    log::warn(
        "vm {} (pid {}): holds up a thread of the daemon's: it is not folded until it lets go",
        vm.vm->name(), vm.vm->pid());
  }
  std::erase_if(workers_, [](const auto& worker) { return worker->replaced; });
  while (workers_.size() < config_.scan.threads && add_worker()) {
  }
}

bool ScanWorkers::at(Worker& self, const VmHandle& vm) {
  const std::lock_guard lock(mutex_);
  if (self.replaced && self.at) self.at->held.fetch_sub(1);
  self.at = self.replaced ? nullptr : vm;
  self.since_ns = monotonic_ns();
  return !self.replaced;
}

void ScanWorkers::run(Worker& self) noexcept {
  sys::yield_this_thread();
  const auto planner = std::make_unique<scan::Planner>();
  const auto folder = std::make_unique<fold::Folder>(contents_);
  const auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  std::size_t turn = 0;
  std::uint64_t cpu_seen = thread_cpu_ns();
  VmId named{0};
  while (!stopping_.load(std::memory_order_relaxed)) {
    Claim next;
    if (!host_.may_observe() || !claim(next, turn)) {
      sleep_ns(kIdleNapNs);
      continue;
    }
    (void)at(self, next.vm);
    if (const VmId id = next.vm->vm->id(); id != named) {
      sys::name_this_thread(id, "fold");
      named = id;
    }
    const std::uint64_t folding = work(next, *planner, *folder, *windows);
    give_back(next, planner->met());
    const bool goes_on = at(self, nullptr);
    next.vm = nullptr;
    const std::uint64_t cpu = thread_cpu_ns();
    fold_cpu_ns_.fetch_add(folding, std::memory_order_relaxed);
    scan_cpu_ns_.fetch_add(cpu - cpu_seen - folding, std::memory_order_relaxed);
    if (!goes_on) return;
    pay(cpu - cpu_seen);
    cpu_seen = cpu;
  }
}

bool ScanWorkers::claim(Claim& claim, std::size_t& turn) {
  const std::vector<VmHandle> vms = vms_.all();
  for (std::size_t i = 0; i < vms.size(); ++i) {
    const VmHandle& vm = vms[(turn + i) % vms.size()];
    if (!vm->wants_folding() || !vm->vm->gate().is_open()) continue;
    ScanCursor& cursor = vm->cursor;
    const std::lock_guard lock(cursor.mutex);
    const std::size_t chunks = scan::chunk_count(*vm->vm);
    if (cursor.next == chunks) {
      if (cursor.in_work != 0) continue;
      const std::uint64_t now = monotonic_ns();
      const auto least = static_cast<std::uint64_t>(config_.fold.pass_seconds * 1e9);
      if (cursor.passes != 0 && now - cursor.began_ns < least) continue;
      cursor.next = 0;
    }
    if (cursor.next == 0) {
      cursor.began_ns = monotonic_ns();
      cursor.met = {};
      vm->vm->next_pass();
    }
    ++cursor.in_work;
    claim = {vm, cursor.next++};
    turn = turn + i;  // stay with this VM: neighbours in RAM are neighbours in the cache
    return true;
  }
  ++turn;
  return false;
}

void ScanWorkers::give_back(const Claim& claim, scan::Met met) {
  ScanCursor& cursor = claim.vm->cursor;
  const std::lock_guard lock(cursor.mutex);
  --cursor.in_work;
  cursor.met.present += met.present;
  cursor.met.held += met.held;
  if (cursor.next == scan::chunk_count(*claim.vm->vm) && cursor.in_work == 0) {
    cursor.met_last = cursor.met;
    cursor.pass_ns = monotonic_ns() - cursor.began_ns;
    ++cursor.passes;
  }
}

std::uint64_t ScanWorkers::work(const Claim& claim, scan::Planner& planner, fold::Folder& folder,
                                std::span<scan::Window, scan::kChunkWindows> windows) {
  AttachedVm& vm = *claim.vm;
  const bool grace = vm.vm->gate().mode() == guest::Gate::Mode::grace;
  const scan::ColdRule rule{config_.fold.passes, config_.fold.backoff_passes_max(), grace};
  const auto planned = planner.plan(*vm.vm, claim.chunk, rule, windows);
  if (!planned) {
    if (planned.error().code == ESRCH) vm.vm->set_gone();
    vm.vm->counters().errors.add();
    return 0;
  }
  // One after the other, so that the clock is read twice a chunk and not twice a window.
  const std::span<const scan::Window> found = std::span(windows).first(*planned);
  for (const scan::Window& window : found) {
    if (stopping_.load(std::memory_order_relaxed) || !vm.wants_folding()) return 0;
    folder.look(*vm.vm, vm.group, window);
  }
  const std::uint64_t began = thread_cpu_ns();
  fold(vm, folder, found);
  return thread_cpu_ns() - began;
}

// Without lz4 a page that nobody shares would be kept as it is, and save nothing.
store::Admit ScanWorkers::admitted(const AttachedVm& vm) const noexcept {
  if (host_.store_full()) return store::Admit::existing;
  return vm.policy.lz4 ? store::Admit::all : store::Admit::shared;
}

void ScanWorkers::fold(AttachedVm& vm, fold::Folder& folder,
                       std::span<const scan::Window> windows) {
  const classify::Policy policy{vm.policy.zero, vm.policy.share || vm.policy.lz4};
  for (const scan::Window& window : windows) {
    if (stopping_.load(std::memory_order_relaxed) || !vm.wants_folding()) return;
    if (!host_.may_fold()) return;
    folder.leave(*vm.vm, vm.group, window, policy, admitted(vm));
    if (folder.found_store_full()) {
      host_.rest_store(kStoreFullRestNs);
    }
  }
}

void ScanWorkers::pay(std::uint64_t cpu_ns) noexcept {
  const auto cost = static_cast<std::uint64_t>(static_cast<double>(cpu_ns) / config_.scan.cpu);
  std::uint64_t until = budget_until_ns_.load(std::memory_order_relaxed);
  std::uint64_t paid = 0;
  do {
    const std::uint64_t now = monotonic_ns();
    paid = std::max(until, now > kBurstNs ? now - kBurstNs : 0) + cost;
  } while (!budget_until_ns_.compare_exchange_weak(until, paid, std::memory_order_relaxed));
  sleep_until(paid, stopping_);
}

}  // namespace ramfold::daemon
