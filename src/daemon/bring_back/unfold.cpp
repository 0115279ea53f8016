// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/unfold.hpp"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <optional>

#include "base/clock.hpp"
#include "base/thread_annotations.hpp"
#include "daemon/threads/apart.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {

using fault::Served;

namespace {

// To bring one page back, without reading it from the store. Measured; only for plans.
constexpr double kPageNs = 6'700;
constexpr unsigned kRoundsMax = 2'000;  // later rounds try the pages that a fault owned before
constexpr std::uint64_t kNapNs = 1'000'000;
constexpr std::uint64_t kUnmapPatienceNs = 2'500'000'000;  // less than any caller's patience
constexpr auto kTellEvery = std::chrono::milliseconds(50);

struct Round {
  std::uint64_t left = 0;  // pages that could not be brought back in this round
  std::uint64_t lost = 0;  // lost pages
  Status status;
};

Round unfold_round(AttachedVm& vm, fault::FillerThread& me, std::uint64_t& done,
                   const std::function<void(std::uint64_t)>& progress,
                   const std::atomic<bool>& stop) {
  Round round;
  vm.vm->each_speaking([&](PageIndex p) {
    if (stop.load(std::memory_order_relaxed)) {
      round.status = fail("the daemon stops", ECANCELED);
      return false;
    }
    switch (vm.faults->filler().unfold(p, {}, me)) {
      case Served::filled:
      case Served::late:
        vm.came_back.fetch_add(1, std::memory_order_relaxed);
        vm.came_back_ns.store(monotonic_ns(), std::memory_order_relaxed);
        progress(++done);
        break;
      case Served::busy:
      case Served::pending:
      case Served::failed:
      case Served::again: ++round.left; break;
      case Served::poisoned: ++round.lost; break;
      case Served::abandoned:
        if (vm.vm->alive()) round.status = fail("no memory to bring a page back", ENOMEM);
        return false;
      case Served::lifted:
      case Served::zeroed: break;
    }
    return true;
  });
  return round;
}

// The mapping worker puts the VM's pages back while it is `unfolding`. Waits for that as long as it
// gets on: a page that a device holds, or an agent that does not answer, has no end.
Status wait_until_unmapped(AttachedVm& vm, std::uint64_t& done,
                           const std::function<void(std::uint64_t)>& progress,
                           const std::atomic<bool>& stop) {
  std::uint64_t left = vm.mapped().value;
  std::uint64_t moved_ns = monotonic_ns();
  while (left != 0 && vm.vm->alive()) {
    if (stop.load(std::memory_order_relaxed)) return fail("the daemon stops", ECANCELED);
    const std::uint64_t now_left = vm.mapped().value;
    if (now_left < left) {
      vm.came_back.fetch_add(left - now_left, std::memory_order_relaxed);
      moved_ns = monotonic_ns();
      vm.came_back_ns.store(moved_ns);
      progress(done += left - now_left);
    } else if (monotonic_ns() - moved_ns >= kUnmapPatienceNs) {
      return fail(
          fmt::format("{} pages are shared with other VMs and do not come back: QEMU's agent "
                      "does not answer, or a device is using them",
                      now_left),
          EAGAIN);
    }
    left = now_left;
    if (left != 0) sleep_ns(kNapNs);
  }
  return {};
}

}  // namespace

control::UnfoldPlan plan_unfold(const AttachedVm& vm, ByteCount available, double read_ns) {
  const guest::VmCounters& counters = vm.vm->counters();
  control::UnfoldPlan plan;
  plan.pages = PageCount{counters.folded_content.get() + vm.mapped().value};
  plan.needed = bytes(plan.pages);
  plan.available = available;
  plan.seconds = static_cast<double>(plan.pages.value) * (kPageNs + read_ns) / 1e9;
  return plan;
}

Status unfold(AttachedVm& vm, const std::function<void(std::uint64_t)>& progress,
              const std::atomic<bool>& stop) {
  // A page that maps the pool would be left behind.
  if (!vm.vm->mappings_known())
    return fail("which of its pages are shared is not known since the last start", EAGAIN);
  vm.vm->gate().close();
  vm.vm->gate().drain();
  vm.only_lost_left.store(false);
  fault::FillerThread me(vm.vm->fillings()[guest::Fillings::kUnfolder]);
  std::uint64_t done = 0;
  if (Status back = wait_until_unmapped(vm, done, progress, stop); !back) return back;
  for (unsigned i = 0; i < kRoundsMax; ++i) {
    const Round round = unfold_round(vm, me, done, progress, stop);
    if (!round.status) return round.status;
    if (!vm.vm->alive()) return {};
    if (round.left == 0) {
      progress(done);
      if (Status gone = vm.vm->unregister_all(); !gone) return gone;
      // Damaged words may still be counted, as what they were before the damage.
      guest::VmCounters& counters = vm.vm->counters();
      for (Counter* now : {&counters.folded_zero, &counters.folded_content, &counters.clean})
        now->set(0);
      vm.only_lost_left.store(round.lost != 0);
      // The agent may be disconnected and miss the message of a detach; it reads this note instead.
      if (round.lost == 0) vm.vm->note_all_back();
      vm.vm->wake_all();
      if (round.lost == 0) return {};
      return fail(fmt::format("everything is back but {} pages, which were lost", round.lost), EIO);
    }
    sleep_ns(kNapNs);
  }
  return fail("some pages were busy for too long; nothing is lost, try again", EAGAIN);
}

namespace {

struct Course {
  std::atomic<std::uint64_t> done{0};  // pages that are back
  Mutex mutex{"Course"};
  CondVar changed;
  std::optional<Status> status GUARDED_BY(mutex);
  bool given_up GUARDED_BY(mutex) = false;
};

// Waits for the status, at most kTellEvery. False: there is none yet; report progress.
bool wait_for_status(Course& course) REQUIRES(course.mutex) {
  const auto end = CondVar::Clock::now() + kTellEvery;
  while (!course.status && course.changed.wait_until(course.mutex, end)) {
  }
  return course.status.has_value();
}

}  // namespace

Status unfold_apart(const std::shared_ptr<Unfolding>& unfolding, std::uint64_t patience_ns,
                    const std::function<void(std::uint64_t)>& progress,
                    const std::atomic<bool>& stop) {
  const auto course = std::make_shared<Course>();
  const bool runs = run_apart([unfolding, course, &stop] {
    AttachedVm& vm = *unfolding->vm();
    sys::name_this_thread(vm.vm->id(), "unfold");
    Status status = unfold(
        vm, [&](std::uint64_t done) { course->done.store(done, std::memory_order_relaxed); }, stop);
    const MutexLock lock(course->mutex);
    if (course->given_up) vm.held.fetch_sub(1);
    course->status = std::move(status);
    course->changed.notify_all();
  });
  if (!runs) return fail("there is no thread to unfold it", EAGAIN);
  MutexLock lock(course->mutex);
  std::uint64_t told = 0;
  std::uint64_t moved_ns = monotonic_ns();
  while (!wait_for_status(*course)) {
    const std::uint64_t now = monotonic_ns();
    const std::uint64_t done = course->done.load(std::memory_order_relaxed);
    // While pages come back, however slowly, the VM is not held up.
    if (done == told && now - moved_ns >= patience_ns) {
      course->given_up = true;
      unfolding->vm()->held.fetch_add(1);
      return fail("its process holds the daemon up: nothing comes back", ETIMEDOUT);
    }
    if (done == told) continue;
    told = done;
    moved_ns = now;
    lock.unlock();
    progress(told);
    lock.lock();
  }
  const Status status = *course->status;
  const std::uint64_t done = course->done.load(std::memory_order_relaxed);
  lock.unlock();
  if (done != told) progress(done);
  return status;
}

}  // namespace ramfold::daemon
