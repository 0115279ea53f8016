// SPDX-License-Identifier: GPL-2.0-or-later
// A VM that exceeds its stall budget, beside one that does not: real processes, faults and workers.
// The epochs are the test's, so nothing here depends on time.
#include "daemon/judge/stall_watch.hpp"

#include <array>
#include <catch2/catch.hpp>

#include "daemon/work/scan_workers.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/pin_test.hpp"
#include "patience.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using Because = policy::VmActs::Because;
using test::Rig;
using test::soon;
using test::soon_quiet;

namespace {

constexpr std::uint64_t kPages = 64;
constexpr double kPassSeconds = 30;

struct Watched {
  Rig rig;
  VmHandle vm{new AttachedVm};

  Watched(std::uint32_t id, const std::shared_ptr<store::Contents>& store,
          std::unique_ptr<test::GuestProcess> process)
      : rig(2 * kPages, store, nullptr, id, std::move(process)) {
    vm->vm = std::move(rig.vm);
    vm->group = std::move(rig.group);
    vm->kept = vm->agent_ready = true;
    vm->cursor.next = scan::chunk_count(*vm->vm);
    vm->allowance.give_nothing();
  }
  ~Watched() {
    rig.vm = std::move(vm->vm);
    rig.group = std::move(vm->group);
  }
  // Every page has bytes of its own.
  void store(std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t p = from; p < to; ++p) rig.process->store(PageIndex{p}, 1000 + p);
  }
  std::uint64_t folded() const { return vm->vm->counters().folded_content.get(); }
  void passes(std::uint64_t n) const {
    const auto now = [this] {
      const MutexLock lock(vm->cursor.mutex);
      return vm->cursor.passes;
    };
    const std::uint64_t end = now() + n;
    REQUIRE(soon([&] { return now() >= end; }));
  }
  Because because() const { return vm->held_back.load(); }
};

}  // namespace

TEST_CASE("pages are allowed one by one, not by the window") {
  FoldAllowance allowance;
  allowance.give_nothing();
  CHECK(allowance.take(64) == 0);
  allowance.give(100, 100, allowance.settled());
  CHECK(allowance.take(64) == 64);
  CHECK(allowance.take(64) == 36);
  CHECK(allowance.take(64) == 0);
  // All 100 are on their way.
  allowance.give(100, 100, allowance.settled());
  CHECK(allowance.take(1) == 0);
  allowance.settle(64);
  allowance.give(100, 100, allowance.settled());
  CHECK(allowance.take(100) == 64);
}

TEST_CASE("a VM over its stall budget is left alone within an epoch, and its neighbour is folded") {
  const auto store = Rig::make_store();
  auto first = test::GuestProcess::start(PageCount{2 * kPages});
  auto second = test::GuestProcess::start(PageCount{2 * kPages});
  Watched sweeper(1, store, std::move(first));
  Watched neighbour(2, store, std::move(second));
  const std::array<VmHandle, 2> both{sweeper.vm, neighbour.vm};
  for (const VmHandle& vm : both) {
    policy::VmTargets targets;
    targets.stall_budget = 1e-6;  // 1 us of each second: less than one fault takes
    vm->targets.store(targets);
  }
  policy::Config config;
  config.fold.pass_seconds = 0.01;
  config.fold.backoff = false;
  config.scan.cpu = 1;
  HostState host;
  HostVerdict verdict;
  verdict.may_observe = verdict.may_fold = true;
  verdict.memory = policy::Memory::is_short;
  host.publish(std::move(verdict));
  VmSet vms;
  for (const VmHandle& vm : both) vms.add(vm);
  StallWatch watch;
  std::uint64_t now_ns = StallWatch::kEpochNs;
  const auto epochs = [&](std::uint64_t n) {
    now_ns += n * StallWatch::kEpochNs;
    watch.check(both, now_ns, kPassSeconds);
  };
  ScanWorkers workers(vms, *store, host, config);
  workers.fold_with(test::pin_test());
  sweeper.store(0, kPages);
  neighbour.store(0, kPages);
  workers.start();

  // Nothing is folded before the first decision.
  sweeper.passes(4);
  CHECK(sweeper.folded() == 0);
  epochs(1);
  REQUIRE(soon_quiet([&] { return sweeper.folded() == kPages && neighbour.folded() == kPages; }));
  epochs(1);
  CHECK(sweeper.because() == Because::nothing);

  for (std::uint64_t p = 0; p < kPages; ++p) (void)sweeper.rig.process->load(PageIndex{p});
  REQUIRE(sweeper.vm->vm->counters().stalled_ns() > 1000);
  epochs(1);
  CHECK(sweeper.because() == Because::over_budget);
  CHECK(sweeper.vm->vm->counters().backed_off.get() == 1);
  CHECK(why_held_back(*sweeper.vm)->code == "stall-budget");
  CHECK(neighbour.because() == Because::nothing);
  CHECK_FALSE(why_held_back(*neighbour.vm));

  // A window that was under way is folded to its end; then no more.
  sweeper.passes(1);
  const std::uint64_t left = sweeper.folded();
  neighbour.store(kPages, 2 * kPages);
  REQUIRE(soon_quiet([&] { return neighbour.folded() == 2 * kPages; }));
  sweeper.passes(6);
  CHECK(sweeper.folded() == left);

  // It made up for the excess: it is folded again.
  CHECK(soon_quiet([&] {
    epochs(3600);
    return sweeper.folded() == kPages;
  }));
  CHECK(sweeper.vm->vm->counters().backed_off.get() == 1);
  workers.stop();
}

TEST_CASE("touches of forgotten pages alone can exceed the stall budget") {
  const auto store = Rig::make_store();
  Watched guest(1, store, test::GuestProcess::start(PageCount{2 * kPages}));
  policy::VmTargets targets;
  targets.stall_budget = 0.01;  // 10 ms of each second
  guest.vm->targets.store(targets);
  StallWatch watch;
  std::uint64_t now_ns = 0;
  const auto epoch = [&](std::uint64_t touch_ns) {
    guest.vm->vm->counters().touch_ns.add(touch_ns);
    now_ns += StallWatch::kEpochNs;
    watch.check(std::array{guest.vm}, now_ns, kPassSeconds);
    return guest.because();
  };
  CHECK(epoch(0) == Because::nothing);
  CHECK(epoch(9'000'000) == Because::nothing);
  CHECK(epoch(25'000'000) == Because::over_budget);
  CHECK(epoch(0) == Because::over_budget);
  CHECK(epoch(0) == Because::nothing);
}

TEST_CASE("folding leaves the resident floor") {
  const auto store = Rig::make_store();
  Watched guest(1, store, test::GuestProcess::start(PageCount{2 * kPages}));
  policy::VmTargets targets;
  targets.resident_floor = bytes(PageCount{kPages / 2});
  guest.vm->targets.store(targets);
  policy::Config config;
  config.fold.pass_seconds = 0.01;
  config.scan.cpu = 1;
  HostState host;
  HostVerdict verdict;
  verdict.may_observe = verdict.may_fold = true;
  verdict.memory = policy::Memory::is_short;
  host.publish(std::move(verdict));
  VmSet vms;
  vms.add(guest.vm);
  guest.store(0, kPages);
  StallWatch watch;
  std::uint64_t now_ns = 0;
  ScanWorkers workers(vms, *store, host, config);
  workers.fold_with(test::pin_test());
  workers.start();
  const auto check = [&] {
    now_ns += StallWatch::kEpochNs;
    watch.check(std::array{guest.vm}, now_ns, kPassSeconds);
  };
  CHECK(soon_quiet([&] {
    check();
    return guest.folded() == kPages / 2;
  }));
  check();
  guest.passes(6);
  check();
  CHECK(guest.folded() == kPages / 2);
  CHECK(why_held_back(*guest.vm)->code == "resident-floor");
  workers.stop();
}
