// SPDX-License-Identifier: GPL-2.0-or-later
// Counts references while faults are served, as after a restart.
#include "daemon/custody/recovery.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <thread>

#include "base/clock.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/slow_source.hpp"

using namespace ramfold;
using test::Rig;
using test::SlowSource;

TEST_CASE("counting waits for a page that a fault holds, and does not spin") {
  constexpr std::uint64_t kPages = 8;
  constexpr std::uint64_t kWatchedNs = 1'000'000'000;
  const auto store = Rig::make_store();
  SlowSource slow(*store);
  Rig rig(kPages, store, &slow);
  for (std::uint64_t p = 0; p < kPages; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.fold_until(kPages);
  slow.close();
  rig.process->load_apart(PageIndex{3}, 1);
  while (slow.waiting() == 0) sleep_ns(500'000);

  daemon::AttachedVm attached;
  attached.vm = std::move(rig.vm);
  attached.counted = false;
  attached.vm->begin_uncounted();
  const std::atomic<bool> stop{false};
  std::atomic<bool> counted{false};
  std::atomic<std::uint64_t> used_ns{0};
  std::thread counting([&] {
    counted = daemon::count_references(attached, *store, stop);
    used_ns = thread_cpu_ns();
  });
  sleep_ns(kWatchedNs);
  CHECK_FALSE(counted);
  slow.open();
  CHECK(rig.process->collect(20'000) == test::GuestProcess::checksum(4));
  counting.join();
  CHECK(counted);
  CHECK(attached.counted);
  // One that spins uses all that it can get of a processor.
  CHECK(used_ns < kWatchedNs / 20);
  rig.faults->stop();
  rig.vm = std::move(attached.vm);
}
