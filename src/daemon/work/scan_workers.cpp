// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/scan_workers.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <optional>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "daemon/work/chunk_work.hpp"
#include "sys/priority.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kIdleNapNs = 20'000'000;
constexpr std::uint64_t kBurstNs = 50'000'000;  // unused budget that may be saved
// A worker that is at one VM for longer is taken as held up. A chunk takes milliseconds. If the
// host only swaps, or gives idle threads no time, replacing the worker does no harm.
constexpr std::uint64_t kHeldNs = 5'000'000'000;
constexpr std::uint64_t kStopNs = 3'000'000'000;
constexpr std::uint64_t kStopNapNs = 1'000'000;

// The number of times that this thread has waited for something (voluntary context switches).
long thread_sleeps() noexcept {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

}  // namespace

ScanWorkers::ScanWorkers(VmSet& vms, store::Contents& contents, HostState& host,
                         const policy::Config& config)
    : contents_(contents),
      host_(host),
      targets_(policy::work_targets(config)),
      queue_(vms, host, targets_) {}

ScanWorkers::~ScanWorkers() { stop(); }

void ScanWorkers::start() {
  const MutexLock lock(mutex_);
  adjust_number();
}

void ScanWorkers::adjust_number() {
  const unsigned wanted = targets_.load().scan_threads;
  auto staying = static_cast<std::size_t>(
      std::ranges::count_if(workers_, [](const auto& worker) { return !worker->dismissed; }));
  for (const auto& worker : workers_) {
    if (staying <= wanted) break;
    if (!worker->dismissed.exchange(true)) --staying;
  }
  while (staying < wanted && add_worker()) ++staying;
}

bool ScanWorkers::add_worker() {
  const auto worker = std::make_shared<Worker>();
  running_.fetch_add(1);
  const bool runs = run_apart([this, worker] {
    sys::name_this_thread("rf-fold");
    run(*worker);
    leave(*worker);
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
    // Charged now, not when the thread is released: VMs of one owner could hold one thread after
    // the other.
    queue_.charge(worker->turn, now - worker->since_ns);
    AttachedVm& vm = *worker->at;
    vm.held.fetch_add(1);
    if (vm.held_said.exchange(true)) continue;
    log::warn(
        "vm {} (pid {}): holds up a thread of the daemon: not folded until it releases the thread",
        vm.vm->name(), vm.vm->pid());
  }
  std::erase_if(workers_, [this](const auto& worker) {
    mutex_.is_held();
    return worker->replaced;
  });
  adjust_number();
}

void ScanWorkers::leave(const Worker& self) {
  const MutexLock lock(mutex_);
  std::erase_if(workers_, [&self](const auto& worker) { return worker.get() == &self; });
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
  while (pin_test_.load() == nullptr) {
    if (stopping_) return;
    stopping_.sleep(kIdleNapNs);
  }
  const auto chunks =
      std::make_unique<ChunkWork>(contents_, host_, agents_, *pin_test_.load(), stopping_);
  std::uint64_t cpu_seen = thread_cpu_ns();
  VmId named{0};
  while (!stopping_ && !self.dismissed) {
    std::optional<ChunkClaim> next;
    if (host_.may_observe()) next = queue_.claim();
    if (!next) {
      stopping_.sleep(kIdleNapNs);
      continue;
    }
    (void)at(self, next->vm, next->turn);
    if (const VmId id = next->vm->vm->id(); id != named) {
      sys::name_this_thread(id, "fold");
      named = id;
    }
    const std::uint64_t began_ns = monotonic_ns();
    const long slept = thread_sleeps();
    const ChunkWork::Done done = chunks->work(*next);
    if (done.met.present == 0) queue_.skip_holes(*next);
    queue_.give_back(*next, done.met, done.busy);
    // If the VM's process made this thread wait, the VM is charged for that time: other VMs lost
    // it.
    const std::uint64_t waited_ns = thread_sleeps() == slept ? 0 : monotonic_ns() - began_ns;
    const bool goes_on = at(self, nullptr, {});
    next->vm = nullptr;
    const std::uint64_t cpu = thread_cpu_ns();
    if (goes_on) queue_.charge(next->turn, std::max(cpu - cpu_seen, waited_ns));
    fold_cpu_ns_.fetch_add(done.fold_ns, std::memory_order_relaxed);
    scan_cpu_ns_.fetch_add(cpu - cpu_seen - done.fold_ns, std::memory_order_relaxed);
    if (!goes_on) return;
    pay(cpu - cpu_seen);
    cpu_seen = cpu;
  }
}

void ScanWorkers::pay(std::uint64_t cpu_ns) noexcept {
  const auto cost =
      static_cast<std::uint64_t>(static_cast<double>(cpu_ns) / targets_.load().scan_cpu);
  std::uint64_t until = budget_until_ns_.load(std::memory_order_relaxed);
  std::uint64_t paid = 0;
  do {
    const std::uint64_t now = monotonic_ns();
    paid = std::max(until, now > kBurstNs ? now - kBurstNs : 0) + cost;
  } while (!budget_until_ns_.compare_exchange_weak(until, paid, std::memory_order_relaxed));
  stopping_.sleep_until(paid);
}

}  // namespace ramfold::daemon
