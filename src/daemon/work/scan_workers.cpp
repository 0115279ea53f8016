// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/scan_workers.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
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
constexpr std::uint64_t kStopNapNs = 1'000'000;
// A store that was found full is asked to take nothing new for so long.
constexpr std::uint64_t kStoreFullRestNs = 5'000'000'000;
constexpr unsigned kFreedChunksMax = 128;  // a turn; 256 pages of words, some 5 ms

void free_words(guest::Vm& vm, std::size_t chunk) noexcept {
  const std::uint64_t first = chunk * guest::kChunkPages.value;
  static_assert(guest::kChunkPages.value % guest::Vm::kWordsAPage == 0);
  for (std::uint64_t p = first; p < first + guest::kChunkPages.value; p += guest::Vm::kWordsAPage) {
    (void)vm.free_words(PageIndex{p});
  }
}

// How often this thread has slept for something: not how often it was made to give way.
long thread_sleeps() noexcept {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

}  // namespace

ScanWorkers::ScanWorkers(VmSet& vms, store::Contents& contents, HostState& host,
                         const policy::Config& config)
    : vms_(vms), contents_(contents), host_(host), config_(config) {}

ScanWorkers::~ScanWorkers() { stop(); }

void ScanWorkers::start() {
  const MutexLock lock(mutex_);
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
  (void)stopping_.raise();
  const std::uint64_t began_ns = monotonic_ns();
  while (running_.load() != 0 && monotonic_ns() - began_ns < kStopNs) sleep_ns(kStopNapNs);
}

void ScanWorkers::tend() {
  const MutexLock lock(mutex_);
  if (stopping_) return;
  const std::uint64_t now = monotonic_ns();
  for (const auto& worker : workers_) {
    if (!worker->at || now - worker->since_ns < kHeldNs) continue;
    worker->replaced = true;
    {
      // Not only when it lets go: VMs of one owner could hold one thread after the other.
      const MutexLock turns(turns_mutex_);
      turns_.charge(worker->turn, now - worker->since_ns);
    }
    AttachedVm& vm = *worker->at;
    vm.held.fetch_add(1);
    if (vm.held_said.exchange(true)) continue;
    log::warn(
        "vm {} (pid {}): holds up a thread of the daemon's: it is not folded until it lets go",
        vm.vm->name(), vm.vm->pid());
  }
  std::erase_if(workers_, [this](const auto& worker) {
    mutex_.is_held();
    return worker->replaced;
  });
  while (workers_.size() < config_.scan.threads && add_worker()) {
  }
}

bool ScanWorkers::at(Worker& self, const VmHandle& vm, const scan::Turns::Member& turn) {
  const MutexLock lock(mutex_);
  if (self.replaced && self.at) self.at->held.fetch_sub(1);
  self.at = self.replaced ? nullptr : vm;
  self.turn = turn;
  self.since_ns = monotonic_ns();
  return !self.replaced;
}

void ScanWorkers::run(Worker& self) noexcept {
  sys::yield_this_thread();
  const auto planner = std::make_unique<scan::Planner>();
  guest::FactsProof proof;
  const auto folder = std::make_unique<fold::Folder>(contents_, proof);
  const auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  std::uint64_t cpu_seen = thread_cpu_ns();
  VmId named{0};
  while (!stopping_) {
    Claim next;
    if (!host_.may_observe() || !claim(next)) {
      stopping_.sleep(kIdleNapNs);
      continue;
    }
    (void)at(self, next.vm, next.turn);
    if (const VmId id = next.vm->vm->id(); id != named) {
      sys::name_this_thread(id, "fold");
      named = id;
    }
    const std::uint64_t began_ns = monotonic_ns();
    const long slept = thread_sleeps();
    const std::uint64_t folding = work(next, *planner, *folder, *windows);
    if (planner->met().present == 0) skip_holes(next);
    give_back(next, planner->met());
    // A VM whose process makes this thread wait is charged with the wait: it was the others' time.
    const std::uint64_t waited_ns = thread_sleeps() == slept ? 0 : monotonic_ns() - began_ns;
    const bool goes_on = at(self, nullptr, {});
    next.vm = nullptr;
    const std::uint64_t cpu = thread_cpu_ns();
    if (goes_on) {
      const MutexLock lock(turns_mutex_);
      turns_.charge(next.turn, std::max(cpu - cpu_seen, waited_ns));
    }
    fold_cpu_ns_.fetch_add(folding, std::memory_order_relaxed);
    scan_cpu_ns_.fetch_add(cpu - cpu_seen - folding, std::memory_order_relaxed);
    if (!goes_on) return;
    pay(cpu - cpu_seen);
    cpu_seen = cpu;
  }
}

void ScanWorkers::meet_new_vms() {
  const std::uint64_t changes = vms_.changes();
  if (changes == met_changes_) return;
  met_changes_ = changes;
  met_.clear();
  std::vector<scan::Turns::Member> members;
  for (const VmHandle& vm : vms_.all()) {
    const VmId id = vm->vm->id();
    const uid_t owner = ids_.account_of(vm->vm->record().uid);
    met_[id] = {vm, owner};
    members.push_back({id, owner});
  }
  turns_.set(members);
}

bool ScanWorkers::claim(Claim& claim) {
  const MutexLock lock(turns_mutex_);
  meet_new_vms();
  return turns_.next([&](VmId id) {
    turns_mutex_.is_held();
    const Turn& turn = met_.at(id);
    const VmHandle vm = turn.vm.lock();
    if (!vm || !claim_of(vm, claim)) return false;
    claim.turn = {id, turn.owner};
    return true;
  });
}

bool ScanWorkers::claim_of(const VmHandle& vm, Claim& claim) {
  if (!vm->wants_folding() || !vm->vm->gate().is_open()) return false;
  ScanCursor& cursor = vm->cursor;
  const MutexLock lock(cursor.mutex);
  if (cursor.next == scan::chunk_count(*vm->vm)) {
    if (cursor.in_work != 0) return false;
    const std::uint64_t now = monotonic_ns();
    const auto least = static_cast<std::uint64_t>(config_.fold.pass_seconds * 1e9);
    if (cursor.passes != 0 && now - cursor.began_ns < least) return false;
    cursor.next = 0;
    cursor.began_ns = now;
    cursor.met = {};
    vm->vm->next_pass();
  }
  ++cursor.in_work;
  ++cursor.chunks;
  claim.vm = vm;
  claim.chunk = cursor.next++;
  return true;
}

void ScanWorkers::skip_holes(const Claim& claim) {
  guest::Vm& vm = *claim.vm->vm;
  ScanCursor& cursor = claim.vm->cursor;
  // Not under the cursor's lock: the RAM file's may be held for long.
  const std::size_t backed = scan::next_backed_chunk(vm, claim.chunk);
  if (backed == claim.chunk) return;  // in swap, or in memory and not mapped
  free_words(vm, claim.chunk);
  for (unsigned i = 0; i < kFreedChunksMax; ++i) {
    std::size_t from = 0;
    {
      const MutexLock lock(cursor.mutex);
      from = cursor.next;
    }
    if (from >= backed) return;
    const std::size_t noted = std::min(scan::next_noted_chunk(vm, from), backed);
    {
      // Taken like any other chunk, so that nobody else works on it.
      const MutexLock lock(cursor.mutex);
      if (cursor.next != from) return;
      cursor.next = std::min(noted + 1, backed);
    }
    if (noted < backed) free_words(vm, noted);
  }
}

void ScanWorkers::give_back(const Claim& claim, scan::Met met) {
  ScanCursor& cursor = claim.vm->cursor;
  const MutexLock lock(cursor.mutex);
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
    if (stopping_ || !vm.wants_folding()) return 0;
    folder.look(*vm.vm, vm.group, window);
  }
  const std::uint64_t began = thread_cpu_ns();
  fold(vm, folder, found);
  return thread_cpu_ns() - began;
}

// Without lz4 a page that nobody shares would be kept as it is, and save nothing.
store::Admit ScanWorkers::admitted(const AttachedVm& vm) const noexcept {
  if (host_.store_full()) return store::Admit::existing;
  return vm.targets.load().lz4 ? store::Admit::all : store::Admit::shared;
}

void ScanWorkers::fold(AttachedVm& vm, fold::Folder& folder,
                       std::span<const scan::Window> windows) {
  const TooMuch too_much = vm.keeps.too_much.load(std::memory_order_relaxed);
  if (too_much == TooMuch::of_tables) return;
  const bool may_keep = too_much == TooMuch::nothing;
  const policy::VmTargets targets = vm.targets.load();
  const classify::Policy policy{targets.zero, may_keep && (targets.share || targets.lz4)};
  for (const scan::Window& window : windows) {
    if (stopping_ || !vm.wants_folding()) return;
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
  stopping_.sleep_until(paid);
}

}  // namespace ramfold::daemon
