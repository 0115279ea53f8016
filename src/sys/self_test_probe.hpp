// SPDX-License-Identifier: GPL-2.0-or-later
// The hands of the start-up self-test: what each of its probes is made of. For self_test*.cpp only.
// Threads: one.
#pragma once

#include <linux/userfaultfd.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.hpp"
#include "sys/page_batches.hpp"
#include "sys/pin_test.hpp"
#include "sys/probe_process.hpp"

namespace ramfold::sys::self_test {

// How long to watch that an access does not end. (A wrong wake-up shows within microseconds.)
inline constexpr int kStaysAwayMs = 3;

inline constexpr std::uint64_t kOld = 0x1111'2222'3333'4444;
inline constexpr std::uint64_t kNew = 0x5555'6666'7777'8888;
inline constexpr std::uint64_t kOther = 0x0102'0304'0506'0708;

enum class Fault : std::uint8_t { missing_read, missing_write, guarded };

// Each fact has a page of its own, and another one behind those.
inline constexpr PageCount kProbeFacts{kProbePages.value / 2};

// The steps that a probe is made of. Each returns whether it went as it must; the first one that
// did not sets the detail.
class Probe {
 public:
  // `pin_test`: null where the kernel has none.
  Probe(const ProbeProcess& process, ProbeDriver& driver, PageIndex page, std::uint64_t offered,
        const PinTest* pin_test)
      : process_(process), driver_(driver), page_(page), offered_(offered), pin_test_(pin_test) {}

  ProbeDriver& driver() noexcept { return driver_; }
  PageIndex page() const noexcept { return page_; }
  std::uint64_t offered() const noexcept { return offered_; }
  std::string take_detail() { return std::move(detail_); }
  // What the probe needs is not to be had here; it says neither yes nor no.
  bool skipped() const noexcept { return skipped_; }

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
  bool faults(Fault kind) { return faults(kind, page_); }
  bool faults(Fault kind, PageIndex page) {
    const auto event = driver_.event(driver_.patience_ms());
    if (!require(event.has_value(), "no event came")) return false;
    const auto& fault = event->arg.pagefault;
    const bool wp = (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
    const bool write = (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
    return require(event->event == UFFD_EVENT_PAGEFAULT, "an event that is no page fault") &&
           require(
               (fault.address & ~std::uint64_t{kPageSize - 1}) == process_.address_of(page).value,
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
  bool fill(PageIndex page, std::uint64_t value) { return done(driver_.write(page, value)); }
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

  // Who holds the page.
  const ProbeProcess& process() const noexcept { return process_; }
  // The second page of this probe.
  PageIndex other() const noexcept { return page_ + kProbeFacts; }
  bool skip(std::string_view why) {
    skipped_ = true;
    detail_ = why;
    return false;
  }
  PinAnswer answer() { return driver_.pin_answer(*pin_test_, process_.ram(), page_.value); }
  bool is(PinAnswer expected) { return is(expected, process_.ram(), page_.value); }
  bool is(PinAnswer expected, BorrowedFd file, std::uint64_t index) {
    const PinAnswer answer = driver_.pin_answer(*pin_test_, file, index);
    return require(answer == expected, "the page is " + std::string(name_of(answer)) +
                                           " where it must be " + std::string(name_of(expected)));
  }
  // New pages lie in a batch of their CPU at first, which holds them; and what is let go of may
  // take a moment.
  bool becomes(PinAnswer expected) {
    const std::uint64_t until_ns =
        monotonic_ns() + static_cast<std::uint64_t>(driver_.patience_ms()) * 1'000'000;
    while (answer() != expected && monotonic_ns() < until_ns) drain_page_batches();
    return is(expected);
  }

 private:
  const ProbeProcess& process_;
  ProbeDriver& driver_;
  PageIndex page_;
  std::uint64_t offered_;
  const PinTest* pin_test_;
  std::string detail_;
  bool skipped_ = false;
};

struct Fact {
  std::string_view name;
  bool (*probe)(Probe&);
  std::string_view sentence;
  bool needed = true;
};

// What the gate that asks the kernel stands on. REQUIRES: probed with a PinTest.
std::span<const Fact> pin_facts() noexcept;

}  // namespace ramfold::sys::self_test
