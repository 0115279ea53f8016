// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/self_test.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <array>
#include <optional>
#include <utility>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "sys/self_test_probe.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::sys {
namespace {

using self_test::Fact;
using self_test::Fault;
using self_test::kNew;
using self_test::kOld;
using self_test::kOther;
using self_test::Probe;

bool missing_fault(Probe& p) {
  return p.ask(ProbeOp::load) && p.faults(Fault::missing_read) && p.sleeps() &&
         p.copy(kNew, Guard::no, Wake::yes) && p.answers(kNew);
}
bool missing_write_fault(Probe& p) {
  return p.ask(ProbeOp::store, kOther) && p.faults(Fault::missing_write) &&
         p.copy(kNew, Guard::no, Wake::yes) && p.answers(0) && p.file_holds(kOther);
}
bool copy_without_wake(Probe& p) {
  return p.ask(ProbeOp::load) && p.faults(Fault::missing_read) &&
         p.copy(kNew, Guard::yes, Wake::no) && p.sleeps() && p.wake() && p.answers(kNew);
}
bool copy_is_guarded(Probe& p) {
  return p.copy(kNew, Guard::yes, Wake::no) && p.loads(kNew) && p.ask(ProbeOp::store, kOther) &&
         p.faults(Fault::guarded) && p.sleeps() && p.file_holds(kNew) && p.lift(Wake::yes) &&
         p.answers(0) && p.file_holds(kOther);
}
bool copy_spares_present(Probe& p) {
  if (!p.fill(kOld)) return false;
  const UffdResult result = p.driver().copy(p.page(), kNew, Guard::yes, Wake::no);
  return p.require(result.outcome == Outcome::present, "UFFDIO_COPY did not say EEXIST") &&
         p.file_holds(kOld) && p.loads(kOld);
}
bool zero_page(Probe& p) {
  return p.ask(ProbeOp::load) && p.faults(Fault::missing_read) &&
         p.done(p.driver().zero(p.page(), Wake::no), "UFFDIO_ZEROPAGE") && p.sleeps() && p.wake() &&
         p.answers(0) && p.resident(true);
}
bool guard_blocks_write(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() && p.loads(kOld) && p.quiet() &&
         p.ask(ProbeOp::store, kNew) && p.faults(Fault::guarded) && p.sleeps() &&
         p.file_holds(kOld) && p.lift(Wake::no) && p.sleeps() && p.wake() && p.answers(0) &&
         p.file_holds(kNew);
}
// The page is in the file but not in the process's page table.
bool guard_before_touch(Probe& p) {
  return p.fill(kOld) && p.guard() && p.ask(ProbeOp::store, kNew) && p.faults(Fault::guarded) &&
         p.sleeps() && p.file_holds(kOld) && p.lift(Wake::yes) && p.answers(0) &&
         p.file_holds(kNew);
}
bool guard_survives_forget(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() && p.does(ProbeOp::forget, 0, 0) &&
         p.loads(kOld) && p.quiet() && p.ask(ProbeOp::store, kNew) && p.faults(Fault::guarded) &&
         p.sleeps() && p.lift(Wake::yes) && p.answers(0);
}
bool guard_survives_register(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() &&
         p.done(p.driver().register_all(), "UFFDIO_REGISTER again") &&
         p.ask(ProbeOp::store, kNew) && p.faults(Fault::guarded) && p.lift(Wake::yes) &&
         p.answers(0);
}
bool forget_keeps_page(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) &&
         p.categories(kPagePresent, kPagePresent, "a touched page does not show as present") &&
         p.does(ProbeOp::forget, 0, 0) &&
         p.categories(kPagePresent, 0, "a forgotten page shows as present") && p.resident(true) &&
         p.loads(kOld) && p.quiet();
}
bool punch_drops_page(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() && p.punch() && p.resident(false) &&
         p.categories(kPagePresent, 0, "a punched page shows as present") && p.ask(ProbeOp::load) &&
         p.faults(Fault::missing_read) && p.copy(kOld, Guard::yes, Wake::yes) && p.answers(kOld);
}
// A write that waits at the guard while its page is punched comes back as a missing fault (the
// commit).
bool punch_under_waiter(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() && p.ask(ProbeOp::store, kNew) &&
         p.faults(Fault::guarded) && p.punch() && p.wake() && p.faults(Fault::missing_write) &&
         p.copy(kOld, Guard::yes, Wake::no) && p.lift(Wake::no) && p.sleeps() && p.wake() &&
         p.answers(0) && p.file_holds(kNew);
}
// Recovery depends on this: an event that a dead daemon had read comes again after a wake-up.
bool wake_repeats_event(Probe& p) {
  return p.ask(ProbeOp::load) && p.faults(Fault::missing_read) && p.wake() &&
         p.faults(Fault::missing_read) && p.copy(kNew, Guard::yes, Wake::yes) && p.answers(kNew);
}
bool kernel_mode_missing(Probe& p) {
  return p.ask(ProbeOp::kernel_store, kOther) && p.faults(Fault::missing_write) &&
         p.copy(kNew, Guard::no, Wake::yes) && p.answers(sizeof(std::uint64_t)) &&
         p.file_holds(kOther);
}
bool kernel_mode_guarded(Probe& p) {
  return p.fill(kOld) && p.loads(kOld) && p.guard() && p.does(ProbeOp::kernel_load, 0, kOld) &&
         p.ask(ProbeOp::kernel_store, kNew) && p.faults(Fault::guarded) && p.file_holds(kOld) &&
         p.lift(Wake::yes) && p.answers(sizeof(std::uint64_t)) && p.file_holds(kNew);
}
bool pagemap_tells_guard(Probe& p) {
  constexpr std::uint64_t kBoth = kPagePresent | kPageWritten;
  return p.fill(kOld) && p.loads(kOld) &&
         p.categories(kBoth, kBoth, "an unguarded page does not show as written") && p.guard() &&
         p.categories(kBoth, kPagePresent, "a guarded page shows as written") && p.lift(Wake::no) &&
         p.categories(kBoth, kBoth, "a lifted page does not show as written");
}
bool reading_leaves_holes(Probe& p) {
  return p.resident(false) && p.file_holds(0) && p.resident(false) && p.fill(kOld) &&
         p.resident(true) && p.file_holds(kOld) &&
         p.categories(kPagePresent, 0, "pread made the page present");
}
bool poison(Probe& p) {
  const bool offered = (p.offered() & Uffd::kFeaturePoison) != 0;
  return p.require(offered, "this kernel has no UFFDIO_POISON") &&
         p.done(p.driver().poison(p.page()), "UFFDIO_POISON") &&
         p.does(ProbeOp::kernel_load, 0, static_cast<std::uint64_t>(-std::int64_t{EFAULT}));
}
bool private_copy(Probe& p) {
  return p.does(ProbeOp::map_pool, 0, 0) && p.loads(0) && p.quiet() &&
         p.categories(kPagePresent | kPageFile, kPagePresent | kPageFile,
                      "a pool page is not of a file") &&
         p.stores(kNew) &&
         p.categories(kPagePresent | kPageFile, kPagePresent,
                      "a private copy still shows as a file's") &&
         p.loads(kNew);
}

constexpr std::array kFacts{
    Fact{"missing-fault", missing_fault,
         "a read of a hole waits for UFFDIO_COPY from another process"},
    Fact{"missing-write-fault", missing_write_fault, "a write to a hole waits too, then goes on"},
    Fact{"copy-dontwake", copy_without_wake, "UFFDIO_COPY with DONTWAKE leaves the waiter asleep"},
    Fact{"copy-guarded", copy_is_guarded,
         "UFFDIO_COPY with MODE_WP leaves no moment without a guard"},
    Fact{"copy-exists", copy_spares_present,
         "UFFDIO_COPY leaves a present page alone and says EEXIST"},
    Fact{"zeropage", zero_page, "UFFDIO_ZEROPAGE fills shared memory"},
    Fact{"guard-blocks-write", guard_blocks_write, "a guard stops a write and lets reads through"},
    Fact{"guard-untouched", guard_before_touch, "a guard stops a write to a page not yet touched"},
    Fact{"guard-survives-forget", guard_survives_forget, "a guard survives MADV_DONTNEED"},
    Fact{"guard-survives-register", guard_survives_register,
         "a guard survives a second registration"},
    Fact{"forget-keeps-page", forget_keeps_page, "MADV_DONTNEED drops page table entries only"},
    Fact{"punch-drops-page", punch_drops_page, "PUNCH_HOLE from outside drops the page everywhere"},
    Fact{"punch-under-waiter", punch_under_waiter,
         "a write stopped before a punch is a missing fault after"},
    Fact{"wake-repeats-event", wake_repeats_event,
         "a waiter that is woken without an answer faults again"},
    Fact{"kernel-missing", kernel_mode_missing, "a system call of the process waits at a hole too"},
    Fact{"kernel-guarded", kernel_mode_guarded,
         "a system call of the process waits at a guard too"},
    Fact{"pagemap-guard", pagemap_tells_guard, "PAGEMAP_SCAN tells present and guard from outside"},
    Fact{"pread-hole", reading_leaves_holes,
         "pread does not make a hole resident, SEEK_DATA tells"},
    Fact{"poison", poison, "UFFDIO_POISON turns an access into an error", false},
    Fact{"private-copy", private_copy, "a written private mapping no longer shows as a file's",
         false},
};

constexpr std::string_view kVersionFact = "kernel-version";
constexpr std::string_view kFeaturesFact = "userfaultfd-features";

class Run {
 public:
  Run(const Procfs& procfs, BorrowedFd device, const PinTest* pin_test,
      const DriverFactory& make_driver)
      : procfs_(procfs), device_(device), pin_test_(pin_test), make_driver_(make_driver) {}

  SelfTest run() {
    const std::uint64_t began = monotonic_ns();
    goes_ = version() && features();
    for (const Fact& fact : kFacts) note(fact, goes_, false);
    for (const Fact& fact : self_test::pin_facts()) note(fact, goes_ && pin_test_ != nullptr, true);
    test_.took_us = (monotonic_ns() - began) / 1000;
    return std::move(test_);
  }

 private:
  void note(const Fact& what, bool may_be_tried, bool of_pins) {
    KernelFact fact{.name = what.name,
                    .sentence = what.sentence,
                    .needed = what.needed,
                    .of_pins = of_pins,
                    .detail = may_be_tried ? "" : "not tried"};
    ENSURE(next_.value < self_test::kProbeFacts.value);
    if (may_be_tried) try_fact(what, next_, fact);
    next_ = next_ + PageCount{1};
    test_.facts.push_back(std::move(fact));
  }
  bool note(std::string_view name, std::string_view sentence, std::string problem) {
    const bool holds = problem.empty();
    test_.facts.push_back({.name = name,
                           .sentence = sentence,
                           .tried = true,
                           .holds = holds,
                           .detail = std::move(problem)});
    return holds;
  }

  // Below 6.4 a WRITEPROTECT may succeed without guarding, and 6.7 brought PAGEMAP_SCAN.
  bool version() {
    const auto version = procfs_.kernel_version();
    std::string problem;
    if (!version) problem = version.error().text();
    if (version && !version->at_least(6, 7)) problem = "this is Linux " + version->text;
    return note(kVersionFact, "Linux 6.7 or newer", std::move(problem));
  }

  bool features() {
    const Fd probe(::ioctl(device_.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    const auto offered = probe ? Uffd::offered_features(probe) : fail_errno("make a userfaultfd");
    std::string problem;
    if (!offered) {
      problem = offered.error().text();
    } else {
      offered_ = *offered;
      if ((offered_ & Uffd::kFeaturesNeeded) != Uffd::kFeaturesNeeded) {
        problem = "guards on shared memory, exact addresses or thread ids are missing";
      }
    }
    return note(kFeaturesFact, "userfaultfd guards shared memory and tells address and thread",
                std::move(problem));
  }

  // Makes a process to probe, unless there is one in which no probe has failed.
  Status prepare() {
    if (driver_) return {};
    auto process = ProbeProcess::start(device_);
    if (!process) return std::unexpected(process.error());
    process_.emplace(std::move(*process));
    driver_ = make_driver_(*process_);
    Status ready = driver_->handshake(Uffd::kFeaturesNeeded | (offered_ & Uffd::kFeaturePoison));
    if (!ready) return ready;
    const UffdResult registered = driver_->register_all();
    if (registered.outcome != Outcome::done)
      return fail("UFFDIO_REGISTER from another process", registered.code);
    return {};
  }

  void discard() {
    driver_.reset();
    process_.reset();
  }

  void try_fact(const Fact& what, PageIndex page, KernelFact& fact) {
    fact.tried = true;
    if (Status ready = prepare(); !ready) {
      fact.detail = ready.error().text();
      return discard();
    }
    Probe probe(*process_, *driver_, page, offered_, pin_test_);
    fact.holds = what.probe(probe);
    if (fact.holds) return;
    fact.detail = probe.take_detail();
    if (probe.skipped()) {
      fact.tried = false;
      fact.needed = false;
      return;
    }
    discard();  // its child may sleep for ever
  }

  const Procfs& procfs_;
  BorrowedFd device_;
  const PinTest* pin_test_;
  const DriverFactory& make_driver_;
  SelfTest test_;
  bool goes_ = false;
  PageIndex next_{0};
  std::uint64_t offered_ = 0;
  std::optional<ProbeProcess> process_;
  std::unique_ptr<ProbeDriver> driver_;
};

}  // namespace

bool SelfTest::passed() const { return failure().empty(); }

std::string SelfTest::failure() const { return failure_of(false); }

std::string SelfTest::pin_failure() const { return failure_of(true); }

std::string SelfTest::failure_of(bool of_pins) const {
  for (const KernelFact& fact : facts) {
    if (fact.of_pins == of_pins && fact.needed && !fact.holds)
      return std::string(fact.name) + ": " + fact.detail;
  }
  return {};
}

std::unique_ptr<ProbeDriver> real_driver(const ProbeProcess& process) {
  return std::make_unique<ProbeDriver>(process);
}

SelfTest run_self_test(const Procfs& procfs, BorrowedFd device, const PinTest* pin_test,
                       const DriverFactory& make_driver) {
  return Run(procfs, device, pin_test, make_driver).run();
}

}  // namespace ramfold::sys
