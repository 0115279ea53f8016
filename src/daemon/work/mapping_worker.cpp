// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/mapping_worker.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "fold/written.hpp"
#include "scan/windows.hpp"
#include "store/contents.hpp"
#include "sys/page_batches.hpp"
#include "sys/priority.hpp"
#include "sys/procfs.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kNapNs = 20'000'000;
constexpr std::uint64_t kBackNapNs = 2'000'000;  // while a VM is brought back
// A turn takes milliseconds, and an agent has a fraction of a second for each answer.
constexpr std::uint64_t kHeldNs = 2'000'000'000;
constexpr std::uint64_t kTurnNs = 20'000'000;  // then other VMs have their turns
// Of one window: 16 pages that lie apart, with a mapping on either side of each.
constexpr std::uint64_t kRangesAWindow = 2 * fold::kAgentRunPages.value;

// A chunk that is the mapping worker's as long as this lives. It is not counted as work of a pass.
class TakenChunk {
 public:
  TakenChunk(ScanCursor& cursor, std::size_t chunk) : cursor_(cursor), chunk_(chunk) {
    const MutexLock lock(cursor.mutex);
    if (std::ranges::find(cursor.taken, chunk) != cursor.taken.end()) return;
    cursor.taken.push_back(chunk);
    has_ = true;
  }
  ~TakenChunk() {
    if (!has_) return;
    const MutexLock lock(cursor_.mutex);
    std::erase(cursor_.taken, chunk_);
  }
  TakenChunk(const TakenChunk&) = delete;
  TakenChunk& operator=(const TakenChunk&) = delete;
  explicit operator bool() const noexcept { return has_; }

 private:
  ScanCursor& cursor_;
  std::size_t chunk_;
  bool has_ = false;
};

std::size_t chunk_of(PageIndex p) noexcept { return p.value / guest::kChunkPages.value; }

// Calls f(window, pages with a slot) for each window of the chunk in which a page has one, until f
// returns false. Returns false when f did.
template <typename F>
bool each_window(const guest::Vm& vm, const fold::Mapper& mapper, std::size_t chunk, F f) {
  const PageIndex first{chunk * guest::kChunkPages.value};
  const PageIndex end{std::min(first.value + guest::kChunkPages.value, vm.pages().value)};
  for (PageIndex p = first; p < end;) {
    const PageRun window = scan::window_of(vm.block_of(p), p, fold::kAgentRunPages.value);
    const guest::PageMask with = mapper.with_slots(window);
    if (with != 0 && !f(window, with)) return false;
    p = window.end();
  }
  return true;
}

}  // namespace

// One VM's turn. REQUIRES: MappingState::mutex as long as it lives.
class MappingWorker::Turn {
 public:
  Turn(MappingWorker& worker, AttachedVm& vm, fold::Mapper& mapper, fold::Mapper::Port port)
      : worker_(worker),
        vm_(vm),
        mapper_(mapper),
        port_(std::move(port)),
        pages_(*worker.pin_test_.load()),
        copies_(*worker.private_pins_.load()),
        end_ns_(monotonic_ns() + kTurnNs) {}

  // Each returns false when there is more to do.
  bool put_all_back() {
    const std::size_t chunks = scan::chunk_count(*vm_.vm);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      if (vm_.pool->mapped_in(chunk) == 0) continue;
      const TakenChunk claim(vm_.cursor, chunk);
      if (!claim) continue;
      const bool goes_on = each_window(*vm_.vm, mapper_, chunk, [&](PageRun window, auto) {
        (void)mapper_.restore(window, port_, copies_);
        return mapper_.settled() && !is_over();
      });
      if (!goes_on) return false;
    }
    if (vm_.pool->mapped().value == 0) return true;
    // Pages that were written just now lie in a CPU's batch, which holds them.
    sys::drain_page_batches();
    return false;
  }

  bool put_back_written() {
    const unsigned pass = vm_.vm->pass_now();
    if (vm_.mapping.swept_pass == pass) return true;
    const std::size_t chunks = scan::chunk_count(*vm_.vm);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      if (vm_.pool->mapped_in(chunk) == 0) continue;
      const TakenChunk claim(vm_.cursor, chunk);
      if (!claim) continue;  // the next pass comes by
      const bool goes_on =
          each_window(*vm_.vm, mapper_, chunk, [&](PageRun window, guest::PageMask with) {
            return put_back(window, to_go(window, with));
          });
      if (!goes_on) return false;
    }
    vm_.mapping.swept_pass = pass;
    return true;
  }

  bool map() {
    const auto ranges = worker_.private_pins_.load()->mappings(vm_.vm->pagemap());
    if (!ranges) return true;
    std::uint64_t in_use = *ranges;
    const std::uint64_t most = ranges_max(worker_.max_map_count_);
    while (true) {
      vm_.mapping.ranges = in_use;
      const bool has_room = in_use + kRangesAWindow <= most;
      vm_.mapping.not_now = has_room ? MapsNot::maps : MapsNot::no_room;
      if (!has_room) {
        vm_.mapping.found.clear();
        return true;
      }
      if (is_over() || worker_.task_of(vm_) != Task::map) return false;
      const auto window = vm_.mapping.found.take();
      if (!window) return true;
      const TakenChunk claim(vm_.cursor, chunk_of(window->pages.first));
      if (!claim) {
        vm_.mapping.found.put(*window);
        return false;
      }
      if (mapper_.share(window->pages, window->wanted, port_, pages_) != 0)
        in_use += kRangesAWindow;
      if (!mapper_.settled()) return false;
    }
  }

 private:
  bool is_over() const noexcept { return worker_.stopping_ || monotonic_ns() >= end_ns_; }

  // The pages that were written, and those whose mapping was dropped by a discard.
  guest::PageMask to_go(PageRun window, guest::PageMask with) {
    guest::PageMask go = 0;
    if (const auto written = fold::written_pages(*vm_.vm, window, with)) {
      go = *written;
      vm_.vm->counters().map_written.add(static_cast<unsigned>(std::popcount(go)));
    } else {
      vm_.vm->counters().errors.add();
    }
    for (unsigned i = 0; i < window.count.value; ++i) {
      if ((with & fold::bit(i)) != 0 &&
          vm_.vm->table().discarded(PageIndex{window.first.value + i}))
        go |= fold::bit(i);
    }
    return go;
  }

  bool put_back(PageRun window, guest::PageMask pages) {
    fold::for_each_run(pages, [&](unsigned first, unsigned count) {
      if (!mapper_.settled()) return;
      (void)mapper_.restore({PageIndex{window.first.value + first}, PageCount{count}}, port_,
                            copies_);
    });
    return mapper_.settled() && !is_over();
  }

  MappingWorker& worker_;
  AttachedVm& vm_;
  fold::Mapper& mapper_;
  fold::Mapper::Port port_;
  guest::PinProof pages_;
  guest::PrivateProof copies_;
  std::uint64_t end_ns_;
};

MappingWorker::MappingWorker(VmSet& vms, store::Contents& contents, HostState& host,
                             const policy::Config& config)
    : vms_(vms), contents_(contents), host_(host), targets_(policy::work_targets(config)) {}

Status MappingWorker::begin() {
  if (thread_ || stopping_) return {};
  const auto most = sys::Procfs().mappings_max();
  if (!most) return std::unexpected(most.error());
  max_map_count_ = *most;
  auto thread = sys::Thread::start("rf-map", [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void MappingWorker::stop() noexcept {
  (void)stopping_.raise();
  thread_.join();
}

void MappingWorker::map_with(const sys::PinTest& pages, const sys::PrivatePins& copies) noexcept {
  private_pins_.store(&copies);
  pin_test_.store(&pages);
}

MappingWorker::Task MappingWorker::task_of(const AttachedVm& vm) const noexcept {
  if (!vm.may_restore() || !vm.counted || vm.detached || !vm.vm->alive()) return Task::nothing;
  const policy::VmTargets targets = vm.targets.load();
  if (vm.unfolding || !targets.map) return Task::put_all_back;
  const bool maps = vm.may_map() && vm.vm->gate().is_open() && host_.may_fold(targets.when);
  return maps ? Task::map : Task::tend;
}

bool MappingWorker::has_work(const AttachedVm& vm, Task task) const {
  const bool mapped = vm.mapped().value != 0;
  switch (task) {
    case Task::nothing: return false;
    case Task::put_all_back: return mapped || vm.mapping.unsettled;
    case Task::tend:
    case Task::map: break;
  }
  const bool pass_began = vm.mapping.swept_pass != vm.vm->pass_now();
  return vm.mapping.unsettled || (pass_began && (mapped || task == Task::map)) ||
         (task == Task::map && !vm.mapping.found.empty());
}

bool MappingWorker::turn(AttachedVm& vm, Task task) {
  const MutexLock lock(vm.mapping.mutex);
  if (vm.detached) return true;
  auto& mapper = vm.mapping.mapper;
  if (!mapper) mapper.emplace(*vm.vm, contents_, vm.group, *vm.pool);
  const auto port = agents_->port(vm);
  const bool settled = mapper->settle(port);
  vm.mapping.unsettled = !settled;
  if (!settled) return true;
  if (!port || !port->is_open()) {
    vm.mapping.not_now = MapsNot::no_agent;
    return true;
  }
  Turn now(*this, vm, *mapper, port);
  bool all = true;
  if (task == Task::put_all_back) {
    vm.mapping.found.clear();
    all = now.put_all_back();
  } else {
    all = now.put_back_written();
    if (task == Task::map && mapper->settled()) all = now.map() && all;
  }
  vm.mapping.unsettled = !mapper->settled();
  return all;
}

bool MappingWorker::take_turn(const VmHandle& vm, Task task) {
  if (vm->mapping.under_way.exchange(true)) return true;
  const auto all = std::make_shared<std::atomic<bool>>(true);
  const Ended ended = run_apart_for(kHeldNs, [this, vm, task, all] {
    sys::name_this_thread(vm->vm->id(), "map");
    sys::yield_this_thread();
    all->store(turn(*vm, task));
    cpu_ns_.fetch_add(thread_cpu_ns(), std::memory_order_relaxed);
    vm->mapping.under_way.store(false);
  });
  if (ended == Ended::never_ran) vm->mapping.under_way.store(false);
  return ended != Ended::yes || *all;
}

void MappingWorker::run() noexcept {
  sys::yield_this_thread();
  while (!stopping_) {
    const std::uint64_t used_before = cpu_ns();
    bool hurries = false;
    if (no_proof_) {
      for (const VmHandle& vm : vms_.all()) vm->mapping.not_now = MapsNot::no_proof;
    }
    if (agents_ != nullptr && pin_test_.load() != nullptr) {
      for (const VmHandle& vm : vms_.all()) {
        if (stopping_) return;
        const Task task = task_of(*vm);
        vm->mapping.wanted = task == Task::map && vm->mapping.not_now == MapsNot::maps;
        if (!has_work(*vm, task)) continue;
        const bool all = take_turn(vm, task);
        hurries |= task == Task::put_all_back && !all;
      }
    }
    // Guests and their operators wait for what is brought back; the rest keeps within its budget.
    const auto used = static_cast<double>(cpu_ns() - used_before);
    const auto owed = static_cast<std::uint64_t>(used / targets_.load().scan_cpu);
    stopping_.sleep(hurries ? kBackNapNs : std::max(owed, kNapNs));
  }
}

}  // namespace ramfold::daemon
