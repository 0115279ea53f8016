// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/scan_workers.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
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
// After the store was found full, no new content is stored for this time.
constexpr std::uint64_t kStoreFullRestNs = 5'000'000'000;
constexpr unsigned kFreedChunksMax = 128;  // in one turn: 256 pages of words, about 5 ms

void free_words(guest::Vm& vm, std::size_t chunk) noexcept {
  const std::uint64_t first = chunk * guest::kChunkPages.value;
  static_assert(guest::kChunkPages.value % guest::Vm::kWordsAPage == 0);
  for (std::uint64_t p = first; p < first + guest::kChunkPages.value; p += guest::Vm::kWordsAPage) {
    (void)vm.free_words(PageIndex{p});
  }
}

scan::ColdRule rule_of(const AttachedVm& vm, const policy::WorkTargets& targets, unsigned epochs) {
  const unsigned passes = vm.targets.load().passes;
  return {passes, std::max(passes, targets.backoff_passes_max), epochs, vm.mapping.wanted};
}

// Of each second, how much of its threads' time a VM may spend on touches of forgotten pages: half
// of its stall budget. The other half is for pages that come back. Beyond its budget, nothing.
double budget_of_touches(const AttachedVm& vm) noexcept {
  if (vm.held_back.load() == policy::VmActs::Because::over_budget) return 0;
  const unsigned vcpus = std::max(vm.vcpus.load(std::memory_order_relaxed), 1u);
  return vm.targets.load().stall_budget * vcpus / 2;
}

// The number of times that this thread has waited for something (voluntary context switches).
long thread_sleeps() noexcept {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

}  // namespace

ScanWorkers::ScanWorkers(VmSet& vms, store::Contents& contents, HostState& host,
                         const policy::Config& config)
    : vms_(vms), contents_(contents), host_(host), targets_(policy::work_targets(config)) {}

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
    {
      // Charged now, not when the thread is released: VMs of one owner could hold one thread after
      // the other.
      const MutexLock turns(turns_mutex_);
      turns_.charge(worker->turn, now - worker->since_ns);
    }
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
  guest::PinProof proof(*pin_test_.load());
  const auto planner = std::make_unique<scan::Planner>(proof);
  const auto folder = std::make_unique<fold::Folder>(contents_, proof);
  const auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  std::uint64_t cpu_seen = thread_cpu_ns();
  VmId named{0};
  while (!stopping_ && !self.dismissed) {
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
    scan::Met met;
    const std::uint64_t folding = work(next, *planner, *folder, *windows, met);
    if (met.present == 0) skip_holes(next);
    give_back(next, met);
    // If the VM's process made this thread wait, the VM is charged for that time: other VMs lost
    // it.
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
  const std::size_t end = scan::chunk_count(*vm->vm);
  const MutexLock lock(cursor.mutex);
  if (cursor.next == end) {
    if (cursor.in_work != 0) return false;
    const std::uint64_t now = monotonic_ns();
    const auto least = static_cast<std::uint64_t>(targets_.load().pass_seconds * 1e9);
    if (cursor.passes != 0 && now - cursor.began_ns < least) return false;
    begin_pass(*vm, cursor, now);
  }
  skip_resting(*vm, cursor, end);
  if (cursor.next == end) {
    end_pass_if_over(*vm, cursor);
    return false;
  }
  // Its pages are mapped or put back at this moment.
  if (std::ranges::find(cursor.taken, cursor.next) != cursor.taken.end()) return false;
  ++cursor.in_work;
  ++cursor.chunks;
  claim.vm = vm;
  claim.chunk = cursor.next++;
  claim.source = cursor.source;
  cursor.taken.push_back(claim.chunk);
  claim.history = cursor.history ? &*cursor.history : nullptr;
  claim.sampling = cursor.sampling;
  claim.folds = cursor.terms.folds;
  claim.epochs = cursor.rests ? cursor.rests->epochs(claim.chunk) : 1;
  return true;
}

void ScanWorkers::begin_pass(AttachedVm& vm, ScanCursor& cursor, std::uint64_t now_ns) {
  prepare_questions(vm, cursor, now_ns - cursor.began_ns);
  if (!cursor.rests) {
    if (auto made = scan::Rests::make(scan::chunk_count(*vm.vm))) cursor.rests = std::move(*made);
  }
  const scan::ColdRule rule = rule_of(vm, targets_.load(), 1);
  const ScanCursor::Terms terms{host_.may_fold(vm.targets.load().when), rule.passes,
                                rule.passes_max};
  cursor.looks_at_all = terms != cursor.terms;
  cursor.terms = terms;
  cursor.next = 0;
  cursor.began_ns = now_ns;
  cursor.met = {};
  cursor.busy_before = vm.vm->counters().not_quiet_busy.get();
  vm.vm->next_pass();
}

void ScanWorkers::end_pass_if_over(AttachedVm& vm, ScanCursor& cursor) {
  if (cursor.next != scan::chunk_count(*vm.vm) || cursor.in_work != 0) return;
  cursor.met_last = cursor.met;
  cursor.busy_last = vm.vm->counters().not_quiet_busy.get() - cursor.busy_before;
  cursor.pass_ns = monotonic_ns() - cursor.began_ns;
  ++cursor.passes;
}

void ScanWorkers::skip_resting(AttachedVm& vm, ScanCursor& cursor, std::size_t end) {
  if (!cursor.rests) return;
  cursor.next = cursor.rests->next_due(cursor.next, end, cursor.looks_at_all, cursor.met,
                                       [&](std::size_t chunk) { return vm.vm->take_stir(chunk); });
}

void ScanWorkers::prepare_questions(const AttachedVm& vm, ScanCursor& cursor,
                                    std::uint64_t elapsed_ns) {
  const scan::ReferencedSource* const source =
      sources_ == nullptr ? nullptr : sources_->chosen(targets_.load().referenced);
  if (source != cursor.source) {
    // The answers of one source say nothing of the questions of another.
    cursor.history.reset();
    cursor.source = nullptr;
  }
  // Nothing is worth a question before the first pass.
  if (source == nullptr || cursor.passes == 0) return;
  if (!cursor.history) {
    auto made = scan::History::make(vm.vm->pages());
    if (!made) return;
    cursor.history = std::move(*made);
    cursor.source = source;
  }
  cursor.sampling.next(elapsed_ns, cursor.met_last.asked,
                       {source->touch_ns(), budget_of_touches(vm)});
}

void ScanWorkers::skip_holes(const Claim& claim) {
  guest::Vm& vm = *claim.vm->vm;
  ScanCursor& cursor = claim.vm->cursor;
  // Without the cursor's lock: the lock of the RAM file may be held for long.
  const std::size_t backed = scan::next_backed_chunk(vm, claim.chunk);
  if (backed == claim.chunk) return;  // the pages are in swap, or in memory but not mapped
  free_words(vm, claim.chunk);
  for (unsigned i = 0; i < kFreedChunksMax; ++i) {
    std::size_t from = 0;
    {
      const MutexLock lock(cursor.mutex);
      skip_resting(*claim.vm, cursor, backed);
      from = cursor.next;
    }
    if (from >= backed) return;
    const std::size_t noted = std::min(scan::next_noted_chunk(vm, from), backed);
    {
      // Takes the chunk like any other, so that no other worker works on it.
      const MutexLock lock(cursor.mutex);
      if (cursor.next != from) return;
      cursor.next = std::min(noted + 1, backed);
    }
    if (noted == backed) return;
    free_words(vm, noted);
    const MutexLock lock(cursor.mutex);
    if (cursor.rests) cursor.rests->looked(noted, {}, rest_of(*claim.vm, noted, claim.folds, {}));
  }
}

void ScanWorkers::give_back(const Claim& claim, const scan::Met& met) {
  ScanCursor& cursor = claim.vm->cursor;
  const MutexLock lock(cursor.mutex);
  --cursor.in_work;
  std::erase(cursor.taken, claim.chunk);
  cursor.met.present += met.present;
  cursor.met.held += met.held;
  cursor.met.asked.candidates += met.asked.candidates;
  cursor.met.asked.forgotten += met.asked.forgotten;
  cursor.met.asked.retouched += met.asked.retouched;
  if (cursor.rests) {
    cursor.rests->looked(claim.chunk, met, rest_of(*claim.vm, claim.chunk, claim.folds, met));
  }
  end_pass_if_over(*claim.vm, cursor);
}

unsigned ScanWorkers::rest_of(const AttachedVm& vm, std::size_t chunk, bool folds,
                              const scan::Met& met) const noexcept {
  if (met.active != 0) return 1;
  // While nothing may leave, nothing is missed. A pass looks at every chunk as soon as it may.
  if (!folds) return scan::Rests::kLongest;
  // Pages may come into a chunk that is not registered, and no event tells of it.
  if (met.leaving != 0 || !vm.vm->is_registered(chunk)) return 1;
  return met.warm_for;
}

std::uint64_t ScanWorkers::work(const Claim& claim, scan::Planner& planner, fold::Folder& folder,
                                std::span<scan::Window, scan::kChunkWindows> windows,
                                scan::Met& met) {
  AttachedVm& vm = *claim.vm;
  std::optional<scan::Asking> asking;
  if (claim.history != nullptr) asking.emplace(*claim.source, *claim.history);
  std::shared_ptr<guest::AgentPort> agent;
  if (asking && claim.source->needs_agent()) {
    agent = agents_->port(vm);
    if (!agent) asking.reset();  // nobody knows which pages are referenced
  }
  const scan::ColdRule rule = rule_of(vm, targets_.load(), claim.epochs);
  const auto planned =
      planner.plan(*vm.vm, claim.chunk, rule, windows, asking ? &*asking : nullptr);
  met = planner.met();
  if (!planned) {
    if (planned.error().code == ESRCH) vm.vm->set_gone();
    vm.vm->counters().errors.add();
    met.active = 1;
    return 0;
  }
  // First look at all windows, then fold all: so the clock is read twice per chunk, not twice per
  // window.
  const std::span<const scan::Window> found = std::span(windows).first(*planned);
  for (const scan::Window& window : found) {
    if (stopping_ || !vm.wants_folding()) return 0;
    folder.look(*vm.vm, vm.group, window, claim.epochs);
  }
  const std::uint64_t began = thread_cpu_ns();
  fold(vm, folder, found);
  const std::uint64_t folding = thread_cpu_ns() - began;
  if (vm.mapping.wanted) {
    for (const scan::Window& window : found) vm.mapping.found.put_parts(window.pages, window.map);
  }
  if (asking) ask(claim, agent.get(), planner.seen(), met);
  return folding;
}

void ScanWorkers::ask(const Claim& claim, guest::AgentPort* agent,
                      std::span<const scan::SeenPage> seen, scan::Met& met) {
  guest::Vm& vm = *claim.vm->vm;
  vm.counters().retouched.add(met.asked.retouched);
  vm.counters().touch_ns.add(met.asked.retouched * claim.source->touch_ns());
  if (stopping_ || !claim.vm->wants_folding()) return;
  if (!host_.may_fold(claim.vm->targets.load().when)) return;
  const scan::Question question = scan::choose(vm, seen, claim.sampling);
  met.asked.candidates = question.candidates;
  if (!claim.source->ask(vm, agent, question, seen, *claim.history)) return;
  met.asked.forgotten = question.pages;
  vm.counters().forgotten.add(question.pages);
}

// Without lz4 a page with no equal page would be stored raw, and save nothing.
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
    if (!host_.may_fold(vm.targets.load().when)) return;
    const auto wanted = static_cast<std::uint64_t>(std::popcount(window.leaving()));
    if (wanted == 0) continue;
    const std::uint64_t pages = vm.allowance.take(wanted);
    if (pages == 0) return;
    scan::Window allowed = window;
    if (pages != wanted) allowed.limit_leaving(pages);
    folder.leave(*vm.vm, vm.group, allowed, policy, admitted(vm));
    vm.allowance.settle(pages);
    if (folder.found_store_full()) {
      host_.rest_store(kStoreFullRestNs);
    }
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
