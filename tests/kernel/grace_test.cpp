// SPDX-License-Identifier: GPL-2.0-or-later
// The grace mode (guest/grace.hpp): what a page waits for, what ends the wait, and that no page
// leaves earlier.
#include <unistd.h>

#include "base/clock.hpp"
#include "kernel/fold_rig.hpp"
#include "patience.hpp"

using namespace ramfold;
using namespace ramfold::test;
using guest::Gate;
using guest::Tag;

namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::uint64_t kLongNs = 3'600'000'000'000;

// A rig whose gate is open for grace; all pages hold data.
struct GraceRig : Rig {
  explicit GraceRig(std::uint64_t wait_ns) : Rig(kPages) {
    for (std::uint64_t p = 0; p < kPages; ++p) process->store(PageIndex{p}, p + 1);
    vm->gate().close();
    enter(wait_ns);
  }
  // As FactWatch does. `since` may lie in the past, which is as good as having waited.
  void enter(std::uint64_t wait_ns, std::uint64_t since_ns = monotonic_ns()) {
    vm->gate().close();
    vm->gate().drain();
    REQUIRE(vm->grace().begin(vm->pages(), wait_ns, since_ns).has_value());
    (void)vm->gate().open(0, Gate::Mode::grace, vm->gate().epoch());
    rule.grace = true;
  }
  void leave() {
    vm->gate().close();
    vm->gate().drain();
    (void)vm->gate().open(0, Gate::Mode::proved, vm->gate().epoch());
    rule.grace = false;
  }
  std::uint64_t folded() {
    std::uint64_t n = 0;
    for (std::uint64_t p = 0; p < kPages; ++p) n += tag(p) == Tag::folded;
    return n;
  }
  // Passes until every page waits under its guard: nothing is left to plan.
  void hold_all() {
    for (int i = 0; i < 10; ++i) pass();
    REQUIRE(folded() == 0);
    for (std::uint64_t p = 0; p < kPages; ++p) REQUIRE(is_guarded(p));
  }
  bool is_guarded(std::uint64_t p) {
    std::array<sys::PageRegion, 1> region;
    HostVirt walked{};
    const auto n = vm->pagemap().scan(vm->range_of({PageIndex{p}, PageCount{1}}), sys::kPagePresent,
                                      sys::kPagePresent | sys::kPageWritten, region, walked);
    return n && *n == 1 && (region[0].categories & sys::kPageWritten) == 0;
  }
  // The windows' clocks go forward: whoever waits has waited.
  void time_passes() {
    for (std::uint64_t p = 0; p < kPages; p += guest::Grace::kWindowPages)
      vm->grace().guarded(PageIndex{p}, 1);
    vm->gate().close();
    vm->gate().drain();
    REQUIRE(vm->grace().begin(vm->pages(), 1'000'000'000, 1).has_value());
    (void)vm->gate().open(0, Gate::Mode::grace, vm->gate().epoch());
  }
  // What a device does that pinned the page before its guard: no fault tells of it.
  void device_write(std::uint64_t p, std::uint64_t seed) {
    PageCopy page;
    fill_page(seed, page.bytes.data());
    REQUIRE(::pwrite(process->ram(), page.bytes.data(), kPageSize,
                     static_cast<off_t>(p * kPageSize)) == static_cast<ssize_t>(kPageSize));
  }
};

}  // namespace

TEST_CASE("grace: pages are guarded, and leave only after the time") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  for (int i = 0; i < 20; ++i) rig.pass();
  CHECK(rig.folded() == 0);
  rig.time_passes();
  rig.pass();
  CHECK(rig.folded() == kPages);
  for (std::uint64_t p = 0; p < kPages; ++p) {
    CHECK(rig.process->load(PageIndex{p}) == GuestProcess::checksum(p + 1));
  }
}

TEST_CASE("grace: the time is the clock's") {
  GraceRig rig(1'000'000'000);
  rig.hold_all();
  const std::uint64_t guarded = monotonic_ns();
  while (rig.folded() != kPages) {
    rig.pass();
    if (rig.folded() != 0) REQUIRE(monotonic_ns() - guarded > 900'000'000);
    REQUIRE(monotonic_ns() - guarded <
            std::uint64_t{1'000'000} * static_cast<unsigned>(patient(30'000)));
    ::usleep(10'000);
  }
}

TEST_CASE("grace: a device's write during the wait keeps the page, and its new bytes") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  rig.device_write(5, 500);
  rig.time_passes();
  rig.pass();
  CHECK(rig.folded() == kPages - 1);
  CHECK(rig.tag(5) == Tag::observed);
  CHECK_FALSE(rig.is_guarded(5));  // and begins anew
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(500));
}

TEST_CASE("grace: a guest's write during the wait begins it anew") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  rig.process->store(PageIndex{5}, 500);
  CHECK_FALSE(rig.is_guarded(5));
  // Cold and observed again, even with its old bytes, it has no guard that stood all the time.
  rig.process->store(PageIndex{5}, 6);
  rig.rule.grace = false;  // a planner that saw another mode
  for (int i = 0; i < 3; ++i) rig.pass();
  rig.rule.grace = true;
  rig.time_passes();
  rig.rule.grace = false;
  for (int i = 0; i < 3; ++i) rig.pass();
  CHECK(rig.tag(5) != Tag::folded);
  CHECK_FALSE(rig.is_guarded(5));
  CHECK(rig.folded() == kPages - 1);
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(6));
}

TEST_CASE("grace: guards from before the mode wait from its beginning") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  rig.leave();
  rig.enter(kLongNs);
  for (int i = 0; i < 5; ++i) rig.pass();
  CHECK(rig.folded() == 0);
  rig.leave();  // proved: what is cold goes at once
  for (int i = 0; i < 3; ++i) rig.pass();
  CHECK(rig.folded() == kPages);
}

TEST_CASE("grace: who comes to a window does not make the others wait longer, nor goes with them") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  rig.process->store(PageIndex{5}, 500);
  for (int i = 0; i < 5; ++i) rig.pass();
  CHECK_FALSE(rig.is_guarded(5));  // its window has those that wait
  rig.time_passes();
  rig.pass();
  CHECK(rig.folded() == kPages - 1);
  CHECK(rig.is_guarded(5));
  for (int i = 0; i < 5; ++i) rig.pass();
  CHECK(rig.folded() == kPages - 1);
}

TEST_CASE("grace: pages that have not waited are not quiet; with proved facts all are") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  const PageRun run{PageIndex{8}, PageCount{16}};  // of two windows
  CHECK(rig.proof.quiet(*rig.vm, run) == 0);
  rig.time_passes();
  CHECK(rig.proof.quiet(*rig.vm, run) == 0xffff);
  rig.vm->grace().guarded(PageIndex{16}, monotonic_ns());
  CHECK(rig.proof.quiet(*rig.vm, run) == 0x00ff);
  rig.leave();
  CHECK(rig.proof.quiet(*rig.vm, run) == 0xffff);
  CHECK(rig.proof.quiet(*rig.vm, {PageIndex{8}, PageCount{3}}) == 0x0007);
}

TEST_CASE("grace: another daemon waits anew") {
  GraceRig rig(kLongNs);
  rig.hold_all();
  auto next = rig.process->make_vm(1);
  CHECK(next->grace().wait_seconds() == 0);
  REQUIRE(next->grace().begin(next->pages(), kLongNs, monotonic_ns()).has_value());
  CHECK_FALSE(next->grace().over(PageIndex{0}, monotonic_ns()));
  CHECK(next->grace().over(PageIndex{0}, monotonic_ns() + kLongNs));
}
