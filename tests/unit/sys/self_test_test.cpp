// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/self_test.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <set>

#include "sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::sys;

namespace {

// A kernel that lies in one way.
enum class Lie {
  none,
  register_fails,
  guard_does_nothing,
  guard_only_when_present,  // as before 6.4, on some pages
  lift_does_nothing,
  copy_does_nothing,
  copy_always_wakes,
  copy_never_guards,
  copy_overwrites,
  zero_does_nothing,
  wake_does_nothing,
  punch_does_nothing,
  file_reads_zero,
  always_resident,
  never_resident,
  always_present,
  never_present,
  always_written,
  events_are_lost,
  events_are_never_guards,
  events_are_always_guards,
  events_have_no_thread,
  events_name_another_page,
  pins_are_quiet,
  pins_are_busy,
  pins_are_holes,
  pins_are_not_said,
  pins_are_not_counted,  // busy is quiet
  mappings_are_not_counted,
};

class LyingDriver : public ProbeDriver {
 public:
  LyingDriver(const ProbeProcess& process, Lie lie) : ProbeDriver(process), lie_(lie) {}

  int patience_ms() const noexcept override { return lie_ == Lie::none ? 1000 : 30; }
  UffdResult register_all() override {
    if (lie_ == Lie::register_fails) return {Outcome::failed, ENOSYS, 0};
    return ProbeDriver::register_all();
  }
  UffdResult guard(PageIndex p) override {
    if (lie_ == Lie::guard_does_nothing) return {};
    if (lie_ == Lie::guard_only_when_present &&
        (ProbeDriver::categories(p).value_or(0) & kPagePresent) == 0) {
      return {};
    }
    return ProbeDriver::guard(p);
  }
  UffdResult lift(PageIndex p, Wake wake) override {
    return lie_ == Lie::lift_does_nothing ? UffdResult{} : ProbeDriver::lift(p, wake);
  }
  UffdResult copy(PageIndex p, std::uint64_t value, Guard guard, Wake wake) override {
    if (lie_ == Lie::copy_does_nothing) return {};
    if (lie_ == Lie::copy_overwrites && ProbeDriver::is_resident(p).value_or(false)) {
      (void)ProbeDriver::write(p, value);
      return {};
    }
    return ProbeDriver::copy(p, value, lie_ == Lie::copy_never_guards ? Guard::no : guard,
                             lie_ == Lie::copy_always_wakes ? Wake::yes : wake);
  }
  UffdResult zero(PageIndex p, Wake wake) override {
    return lie_ == Lie::zero_does_nothing ? UffdResult{} : ProbeDriver::zero(p, wake);
  }
  UffdResult wake(PageIndex p) override {
    return lie_ == Lie::wake_does_nothing ? UffdResult{} : ProbeDriver::wake(p);
  }
  Status punch(PageIndex p) override {
    return lie_ == Lie::punch_does_nothing ? Status{} : ProbeDriver::punch(p);
  }
  Result<std::uint64_t> read(PageIndex p) override {
    return lie_ == Lie::file_reads_zero ? Result<std::uint64_t>{0} : ProbeDriver::read(p);
  }
  Result<bool> is_resident(PageIndex p) override {
    if (lie_ == Lie::always_resident) return true;
    if (lie_ == Lie::never_resident) return false;
    return ProbeDriver::is_resident(p);
  }
  Result<std::uint64_t> categories(PageIndex p) override {
    auto seen = ProbeDriver::categories(p);
    if (seen && lie_ == Lie::always_present) *seen |= kPagePresent | kPageFile;
    if (seen && lie_ == Lie::never_present) *seen = 0;
    if (seen && lie_ == Lie::always_written) *seen |= kPageWritten;
    return seen;
  }
  std::optional<uffd_msg> event(int wait_ms) override {
    auto event = ProbeDriver::event(wait_ms);
    if (!event || lie_ == Lie::events_are_lost) return std::nullopt;
    if (lie_ == Lie::events_are_never_guards) event->arg.pagefault.flags &= ~UFFD_PAGEFAULT_FLAG_WP;
    if (lie_ == Lie::events_are_always_guards) event->arg.pagefault.flags |= UFFD_PAGEFAULT_FLAG_WP;
    if (lie_ == Lie::events_have_no_thread) event->arg.pagefault.feat.ptid = 0;
    if (lie_ == Lie::events_name_another_page) event->arg.pagefault.address ^= kPageSize;
    return event;
  }
  PinAnswer pin_answer(const PinTest& test, BorrowedFd file, std::uint64_t index) override {
    const PinAnswer answer = ProbeDriver::pin_answer(test, file, index);
    if (lie_ == Lie::pins_are_quiet) return PinAnswer::quiet;
    if (lie_ == Lie::pins_are_busy) return PinAnswer::busy;
    if (lie_ == Lie::pins_are_holes) return PinAnswer::hole;
    if (lie_ == Lie::pins_are_not_said) return PinAnswer::unanswered;
    if (lie_ == Lie::pins_are_not_counted && answer == PinAnswer::busy) return PinAnswer::quiet;
    if (lie_ == Lie::mappings_are_not_counted && answer == PinAnswer::mapped_more)
      return PinAnswer::quiet;
    return answer;
  }

 private:
  Lie lie_;
};

Fd open_device() { return Fd(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); }

SelfTest run_with(BorrowedFd device, Lie lie) {
  const Procfs procfs;
  const auto pin_test = PinTest::load(procfs);
  const PinTest* test = pin_test ? &*pin_test : nullptr;
  return run_self_test(procfs, device, test, [lie](const ProbeProcess& process) {
    return std::make_unique<LyingDriver>(process, lie);
  });
}

std::set<std::string_view> failed(const SelfTest& test) {
  std::set<std::string_view> names;
  for (const KernelFact& fact : test.facts) {
    if (!fact.holds) names.insert(fact.name);
  }
  return names;
}

}  // namespace

TEST_CASE("every fact that folding stands on holds on this kernel, and quickly") {
  const Fd device = open_device();
  if (!device) {
    WARN("skipped: no /dev/userfaultfd for this user");
    return;
  }
  const Procfs procfs;
  const auto pin_test = PinTest::load(procfs);
  if (!pin_test) WARN("without facts of pins: " << pin_test.error().text());
  const SelfTest test = run_self_test(procfs, device, pin_test ? &*pin_test : nullptr);
  for (const KernelFact& fact : test.facts) {
    INFO(fact.name << ": " << fact.detail);
    if (fact.of_pins && !fact.tried) {
      WARN("not tried: " << fact.name << ": " << fact.detail);
      continue;
    }
    CHECK(fact.tried);
    CHECK((fact.holds || !fact.needed));
    CHECK_FALSE(fact.sentence.empty());
  }
  CHECK(test.passed());
  CHECK(test.failure().empty());
  CHECK(test.pin_failure().empty() == pin_test.has_value());
  WARN("the self-test took " << test.took_us / 1000 << " ms");
}

TEST_CASE("an old kernel is not probed at all") {
  const Fd device = open_device();
  if (!device) return;
  const test::FakeTree tree;
  tree.write("proc/sys/kernel/osrelease", "6.6.99\n");
  const SelfTest test = run_self_test(Procfs(tree.root()), device, nullptr);
  CHECK_FALSE(test.passed());
  CHECK(test.failure() == "kernel-version: this is Linux 6.6.99");
  for (std::size_t i = 1; i < test.facts.size(); ++i) CHECK_FALSE(test.facts[i].tried);
}

TEST_CASE("without a userfaultfd device nothing holds") {
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const SelfTest test = run_self_test(Procfs(), null, nullptr);
  CHECK_FALSE(test.passed());
}

TEST_CASE("each probe fails on a kernel that lies, and names what it saw") {
  const Fd device = open_device();
  if (!device) return;
  struct Case {
    Lie lie;
    std::vector<std::string_view> must_fail;
  };
  const std::vector<Case> cases{
      {Lie::register_fails, {"missing-fault", "private-copy"}},
      {Lie::guard_does_nothing,
       {"guard-blocks-write", "guard-untouched", "guard-survives-forget", "guard-survives-register",
        "punch-under-waiter", "kernel-guarded", "pagemap-guard"}},
      {Lie::guard_only_when_present, {"guard-untouched"}},
      {Lie::lift_does_nothing, {"guard-blocks-write", "copy-guarded", "pagemap-guard"}},
      {Lie::copy_does_nothing,
       {"missing-fault", "missing-write-fault", "copy-dontwake", "punch-drops-page",
        "wake-repeats-event", "kernel-missing"}},
      {Lie::copy_always_wakes, {"copy-dontwake"}},
      {Lie::copy_never_guards, {"copy-guarded"}},
      {Lie::copy_overwrites, {"copy-exists"}},
      {Lie::zero_does_nothing, {"zeropage"}},
      {Lie::wake_does_nothing, {"copy-dontwake", "zeropage", "wake-repeats-event"}},
      {Lie::punch_does_nothing, {"punch-drops-page", "punch-under-waiter"}},
      {Lie::file_reads_zero, {"guard-blocks-write", "pread-hole", "copy-exists"}},
      {Lie::always_resident, {"punch-drops-page", "pread-hole"}},
      {Lie::never_resident, {"forget-keeps-page", "pread-hole", "zeropage"}},
      {Lie::always_present, {"forget-keeps-page", "punch-drops-page", "private-copy"}},
      {Lie::never_present, {"forget-keeps-page", "pagemap-guard"}},
      {Lie::always_written, {"pagemap-guard"}},
      {Lie::events_are_lost, {"missing-fault", "kernel-guarded"}},
      {Lie::events_are_never_guards, {"guard-blocks-write", "guard-untouched"}},
      {Lie::events_are_always_guards, {"missing-fault", "punch-under-waiter"}},
      {Lie::events_have_no_thread, {"missing-fault", "kernel-missing"}},
      {Lie::events_name_another_page, {"missing-write-fault"}},
      {Lie::pins_are_quiet, {"pin-hole", "pin-of-write", "pin-second-mapping"}},
      {Lie::pins_are_busy, {"pin-quiet", "pin-hole", "pin-waits-at-guard"}},
      {Lie::pins_are_holes, {"pin-quiet", "pin-of-write"}},
      {Lie::pins_are_not_said, {"pin-quiet", "pin-hole", "pin-of-write", "pin-second-mapping"}},
      {Lie::pins_are_not_counted, {"pin-of-write"}},
      {Lie::mappings_are_not_counted, {"pin-second-mapping"}},
  };
  std::set<std::string_view> all;
  const bool has_pins = PinTest::load(Procfs()).has_value();
  for (const Case& c : cases) {
    const bool of_pins = c.lie >= Lie::pins_are_quiet;
    if (of_pins && !has_pins) continue;
    const SelfTest test = run_with(device, c.lie);
    const auto names = failed(test);
    CHECK(test.passed() == of_pins);
    if (of_pins) CHECK_FALSE(test.pin_failure().empty());
    for (const std::string_view name : c.must_fail) {
      INFO("lie " << static_cast<int>(c.lie) << ", fact " << name);
      CHECK(names.contains(name));
    }
    for (const KernelFact& fact : test.facts) CHECK(fact.holds == fact.detail.empty());
    all.insert(names.begin(), names.end());
  }
  // Every needed fact but the two about the kernel itself has failed at least once.
  for (const KernelFact& fact : run_with(device, Lie::none).facts) {
    if (!fact.needed || fact.name == "kernel-version" || fact.name == "userfaultfd-features")
      continue;
    if (fact.of_pins && !has_pins) continue;
    INFO(fact.name);
    CHECK(all.contains(fact.name));
  }
}

TEST_CASE("the self-test leaves no process and no descriptor behind") {
  const Fd device = open_device();
  if (!device) return;
  const Procfs procfs;
  const auto descriptors = [&] {
    std::size_t n = 0;
    procfs.descriptors(::getpid(), [&](const FdEntry&) { return ++n > 0; });
    return n;
  };
  const std::size_t before = descriptors();
  (void)run_with(device, Lie::none);
  (void)run_with(device, Lie::copy_does_nothing);
  CHECK(descriptors() == before);
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
}
