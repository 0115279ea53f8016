// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/self_test.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <array>
#include <optional>
#include <utility>

#include "base/clock.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::sys {
namespace {

// How long to watch that an access does not end. (A wrong wake-up shows within microseconds.)
constexpr int kStaysAwayMs = 3;

constexpr std::uint64_t kOld = 0x1111'2222'3333'4444;
constexpr std::uint64_t kNew = 0x5555'6666'7777'8888;
constexpr std::uint64_t kOther = 0x0102'0304'0506'0708;

enum class Fault : std::uint8_t { missing_read, missing_write, guarded };

// The steps that a probe is made of. Each returns whether it went as it must; the first one that
// did not sets the detail.
class Probe {
 public:
  Probe(const ProbeProcess& process, ProbeDriver& driver, PageIndex page, std::uint64_t offered)
      : process_(process), driver_(driver), page_(page), offered_(offered) {}

  ProbeDriver& driver() noexcept { return driver_; }
  PageIndex page() const noexcept { return page_; }
  std::uint64_t offered() const noexcept { return offered_; }
  std::string take_detail() { return std::move(detail_); }

  bool require(bool holds, std::string_view otherwise) {
    if (!holds && detail_.empty()) detail_ = otherwise;
    return holds;
  }
  bool done(const UffdResult& result, std::string_view call) {
    if (result.outcome == Outcome::done) return true;
    return require(false, Error{std::string(call), result.code}.text());
  }
  bool done(const Status& status) {
    return require(status.has_value(), status ? "" : status.error().text());
  }

  // The child.
  bool ask(ProbeOp op, std::uint64_t value = 0) { return done(process_.ask(op, page_, value)); }
  bool answers(std::uint64_t value) {
    const auto answer = process_.answer(driver_.patience_ms());
    if (!require(answer.has_value(), "the access never ended")) return false;
    return require(static_cast<std::uint64_t>(*answer) == value, "the access gave other bytes");
  }
  bool sleeps() { return require(!process_.answer(kStaysAwayMs), "the access ended too early"); }
  bool does(ProbeOp op, std::uint64_t value, std::uint64_t expected) {
    return ask(op, value) && answers(expected);
  }
  bool loads(std::uint64_t expected) { return does(ProbeOp::load, 0, expected); }
  bool stores(std::uint64_t value) { return does(ProbeOp::store, value, 0); }

  // The events.
  bool faults(Fault kind) {
    const auto event = driver_.event(driver_.patience_ms());
    if (!require(event.has_value(), "no event came")) return false;
    const auto& fault = event->arg.pagefault;
    const bool wp = (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
    const bool write = (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
    return require(event->event == UFFD_EVENT_PAGEFAULT, "an event that is no page fault") &&
           require(
               (fault.address & ~std::uint64_t{kPageSize - 1}) == process_.address_of(page_).value,
               "an event of another page") &&
           require(fault.feat.ptid == static_cast<std::uint32_t>(process_.pid()),
                   "an event without its thread") &&
           require(wp == (kind == Fault::guarded),
                   wp ? "a write event instead of a missing one"
                      : "a missing event instead of a write event") &&
           require(wp || write == (kind == Fault::missing_write), "read and write mistaken");
  }
  bool quiet() { return require(!driver_.event(0), "an event that should not be"); }

  // The RAM file and the page table.
  bool fill(std::uint64_t value) { return done(driver_.write(page_, value)); }
  bool file_holds(std::uint64_t value) {
    const auto read = driver_.read(page_);
    return require(read.has_value(), "pread failed") &&
           require(*read == value, "the RAM file holds other bytes");
  }
  bool resident(bool expected) {
    const auto resident = driver_.is_resident(page_);
    return require(resident.has_value(), "SEEK_DATA failed") &&
           require(*resident == expected,
                   expected ? "SEEK_DATA sees a hole" : "SEEK_DATA sees data");
  }
  bool categories(std::uint64_t mask, std::uint64_t expected, std::string_view otherwise) {
    const auto seen = driver_.categories(page_);
    if (!seen) return require(false, seen.error().text());
    return require((*seen & mask) == expected, otherwise);
  }

  // The ways down and up.
  bool guard() { return done(driver_.guard(page_), "UFFDIO_WRITEPROTECT"); }
  bool lift(Wake wake) { return done(driver_.lift(page_, wake), "UFFDIO_WRITEPROTECT (lift)"); }
  bool wake() { return done(driver_.wake(page_), "UFFDIO_WAKE"); }
  bool punch() { return done(driver_.punch(page_)); }
  bool copy(std::uint64_t value, Guard guard, Wake wake) {
    return done(driver_.copy(page_, value, guard, wake), "UFFDIO_COPY");
  }

 private:
  const ProbeProcess& process_;
  ProbeDriver& driver_;
  PageIndex page_;
  std::uint64_t offered_;
  std::string detail_;
};

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

struct Fact {
  std::string_view name;
  bool (*probe)(Probe&);
  std::string_view sentence;
  bool needed = true;
};
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
static_assert(kFacts.size() <= kProbePages.value, "each probe has a page of its own");

constexpr std::string_view kVersionFact = "kernel-version";
constexpr std::string_view kFeaturesFact = "userfaultfd-features";

class Run {
 public:
  Run(const Procfs& procfs, BorrowedFd device, const DriverFactory& make_driver)
      : procfs_(procfs), device_(device), make_driver_(make_driver) {}

  SelfTest run() {
    const std::uint64_t began = monotonic_ns();
    const bool goes = version() && features();
    for (std::size_t i = 0; i < kFacts.size(); ++i) {
      KernelFact fact{
          .name = kFacts[i].name, .sentence = kFacts[i].sentence, .needed = kFacts[i].needed};
      if (goes) try_fact(kFacts[i], PageIndex{i}, fact);
      if (!goes) fact.detail = "not tried";
      test_.facts.push_back(std::move(fact));
    }
    test_.took_us = (monotonic_ns() - began) / 1000;
    return std::move(test_);
  }

 private:
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
    Probe probe(*process_, *driver_, page, offered_);
    fact.holds = what.probe(probe);
    if (fact.holds) return;
    fact.detail = probe.take_detail();
    discard();  // its child may sleep for ever
  }

  const Procfs& procfs_;
  BorrowedFd device_;
  const DriverFactory& make_driver_;
  SelfTest test_;
  std::uint64_t offered_ = 0;
  std::optional<ProbeProcess> process_;
  std::unique_ptr<ProbeDriver> driver_;
};

}  // namespace

bool SelfTest::passed() const { return failure().empty(); }

std::string SelfTest::failure() const {
  for (const KernelFact& fact : facts) {
    if (fact.needed && !fact.holds) return std::string(fact.name) + ": " + fact.detail;
  }
  return {};
}

SelfTest run_self_test(const Procfs& procfs, BorrowedFd device) {
  return run_self_test(procfs, device, [](const ProbeProcess& process) {
    return std::make_unique<ProbeDriver>(process);
  });
}

SelfTest run_self_test(const Procfs& procfs, BorrowedFd device, const DriverFactory& make_driver) {
  return Run(procfs, device, make_driver).run();
}

}  // namespace ramfold::sys
