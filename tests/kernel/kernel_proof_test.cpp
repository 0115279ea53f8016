// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon makes of the kernel's word on pins (daemon/judge): with it, without it, and the
// capabilities that it takes.
#include <fcntl.h>
#include <linux/capability.h>

#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <thread>

#include "daemon/judge/kernel_proof.hpp"
#include "daemon/judge/pin_loader.hpp"
#include "kernel/pin_test.hpp"
#include "sys/capabilities.hpp"
#include "sys/memory.hpp"

using namespace ramfold;

namespace {

// A set of the calling thread's, as /proc tells it: "CapEff", "CapPrm", ...
std::uint64_t capabilities(const std::string& set) {
  std::ifstream status("/proc/thread-self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(set + ":")) return std::stoull(line.substr(set.size() + 1), nullptr, 16);
  }
  FAIL("no " << set);
  return 0;
}
bool has_one_of(const std::string& set, std::span<const int> wanted) {
  const std::uint64_t has = capabilities(set);
  return std::ranges::any_of(wanted, [&](int one) { return (has >> one & 1) != 0; });
}

sys::Fd userfault_device() {
  sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  REQUIRE(device);
  return device;
}

control::CheckOutcome outcome_of(const daemon::KernelProof& proof, std::string_view name) {
  for (const control::SelfTestView& view : proof.views) {
    if (view.name == name) return view.outcome;
  }
  FAIL("no fact " << name);
  return {};
}

}  // namespace

TEST_CASE("a kernel that tells who holds a page is proved, and may be folded") {
  const sys::LoadedPinTest pins = sys::PinTest::load(sys::Procfs());
  if (!pins) std::exit(77);
  const daemon::KernelProof proof = daemon::prove_kernel(sys::Procfs(), userfault_device(), pins);
  INFO(proof.facts.self_test_failure);
  CHECK(proof.passed);
  CHECK(proof.facts.self_test_passed);
  CHECK_FALSE(proof.facts.no_pin_test);
  CHECK(outcome_of(proof, "pin-quiet") == control::CheckOutcome::passed);
}

TEST_CASE("a kernel that loads no program is a fact with a text and a remedy") {
  using Why = sys::PinTestRefusal::Why;
  for (const Why why :
       {Why::kernel_too_old, Why::no_types, Why::lockdown, Why::not_permitted, Why::refused}) {
    const sys::LoadedPinTest pins = std::unexpected(sys::PinTestRefusal{.why = why, .code = EPERM});
    const daemon::KernelProof proof = daemon::prove_kernel(sys::Procfs(), userfault_device(), pins);
    REQUIRE(proof.facts.no_pin_test);
    CHECK(proof.facts.no_pin_test->text == pins.error().text());
    CHECK(proof.facts.no_pin_test->remedy == pins.error().remedy());
    // The other facts hold; those of pins were not tried, and are no failure of the kernel.
    CHECK(proof.passed);
    CHECK(outcome_of(proof, "pin-quiet") == control::CheckOutcome::skipped);
  }
}

TEST_CASE("who loads the program has no capability for it afterwards, and asks all the same") {
  (void)test::pin_test();
  std::thread([] {
    const auto loader = daemon::PinLoader::begin();
    for (const char* set : {"CapEff", "CapPrm", "CapInh", "CapAmb"})
      CHECK_FALSE(has_one_of(set, sys::PinTest::kCapabilities));
    std::thread([] { CHECK_FALSE(has_one_of("CapEff", sys::PinTest::kCapabilities)); }).join();
    const sys::LoadedPinTest& pins = loader->loaded();
    REQUIRE(pins);
    const auto file = sys::make_memfd("ram", ByteCount{kPageSize}, sys::Sealed::no);
    REQUIRE(file);
    std::array<sys::PinAnswer, 1> answers{};
    CHECK(pins->ask(*file, 0, answers));
    CHECK(answers[0] == sys::PinAnswer::hole);
  }).join();
}

TEST_CASE("without the capabilities the kernel refuses, and it is said which are missing") {
  (void)test::pin_test();
  std::thread([] {
    // CAP_SYS_ADMIN stands for both.
    constexpr std::array kAll{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    REQUIRE(sys::drop_capabilities(kAll).has_value());
    CHECK_FALSE(has_one_of("CapEff", kAll));
    CHECK_FALSE(has_one_of("CapBnd", kAll));
    const sys::LoadedPinTest pins = sys::PinTest::load(sys::Procfs());
    REQUIRE_FALSE(pins);
    INFO(pins.error().text());
    CHECK(pins.error().why == sys::PinTestRefusal::Why::not_permitted);
    CHECK(pins.error().remedy().find("CAP_BPF") != std::string_view::npos);
  }).join();
}

TEST_CASE("where the verifier refuses the program, its reason is told") {
  (void)test::pin_test();
  std::thread([] {
    // With CAP_BPF the kernel loads programs, but this one takes CAP_PERFMON as well.
    constexpr std::array kOnlyPerfmon{CAP_PERFMON, CAP_SYS_ADMIN};
    REQUIRE(sys::drop_capabilities(kOnlyPerfmon).has_value());
    const sys::LoadedPinTest pins = sys::PinTest::load(sys::Procfs());
    REQUIRE_FALSE(pins);
    INFO(pins.error().text());
    CHECK_FALSE(pins.error().said.empty());
    CHECK_FALSE(pins.error().said.starts_with("libbpf: "));
    CHECK(pins.error().remedy().find("CAP_PERFMON") != std::string_view::npos);
  }).join();
}

namespace {

// A kernel to which every page is quiet.
class NothingIsHeld final : public sys::ProbeDriver {
 public:
  using ProbeDriver::ProbeDriver;
  sys::PinAnswer pin_answer(const sys::PinTest&, sys::BorrowedFd, std::uint64_t) override {
    return sys::PinAnswer::quiet;
  }
};

}  // namespace

TEST_CASE("D1: a kernel that says of every page that nobody holds it opens no gate") {
  const sys::LoadedPinTest pins = sys::PinTest::load(sys::Procfs());
  if (!pins) std::exit(77);
  const daemon::KernelProof proof = daemon::prove_kernel(
      sys::Procfs(), userfault_device(), pins,
      [](const sys::ProbeProcess& process) { return std::make_unique<NothingIsHeld>(process); });
  CHECK_FALSE(proof.passed);
  CHECK_FALSE(proof.facts.self_test_passed);
  CHECK_FALSE(proof.facts.no_pin_test);
  INFO(proof.facts.self_test_failure);
  CHECK(proof.facts.self_test_failure.starts_with("pin-"));
  CHECK(outcome_of(proof, "pin-hole") == control::CheckOutcome::failed);
  // The facts of folding itself hold.
  CHECK(std::ranges::any_of(proof.views, [](const control::SelfTestView& view) {
    return view.outcome == control::CheckOutcome::passed && !view.name.starts_with("pin-");
  }));
}
