// SPDX-License-Identifier: GPL-2.0-or-later
// Prints what the daemon finds out about the kernel it runs on, one fact a line: whether the kernel
// loads the program that asks who holds a page, and every fact of the daemon's self-test. For
// pin_kernels.py, which runs it on several kernels.
#include <fcntl.h>

#include <cstdio>
#include <memory>
#include <string>

#include "sys/fd.hpp"
#include "sys/pin_test.hpp"
#include "sys/self_test.hpp"

using namespace ramfold;

namespace {

// An emulated CPU on a busy host is slow; how long a fact may take is not what is tested.
class PatientDriver final : public sys::ProbeDriver {
 public:
  using ProbeDriver::ProbeDriver;
  int patience_ms() const noexcept override { return 30'000; }
};

void print(const std::string& line) { std::printf("%s\n", line.c_str()); }

std::string outcome_of(const sys::KernelFact& fact) {
  if (fact.holds) return "holds";
  return (fact.tried ? "fails: " : "skipped: ") + fact.detail;
}

}  // namespace

int main() {
  const sys::Procfs procfs;
  const auto version = procfs.kernel_version();
  print("kernel: " + (version ? version->text : version.error().text()));
  print("lockdown: " + procfs.lockdown());
  const auto pin_test = sys::PinTest::load(procfs);
  if (pin_test) {
    print("pin program: loaded");
  } else {
    print("pin program: refused: " + pin_test.error().text() + "; " +
          std::string(pin_test.error().remedy()));
  }
  const sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device) {
    std::perror("/dev/userfaultfd");
    return 1;
  }
  const sys::SelfTest test = sys::run_self_test(
      procfs, device, pin_test ? &*pin_test : nullptr,
      [](const sys::ProbeProcess& process) { return std::make_unique<PatientDriver>(process); });
  for (const sys::KernelFact& fact : test.facts)
    print("fact " + std::string(fact.name) + ": " + outcome_of(fact));
  print("folding: " + (test.passed()
                           ? "yes"
                           : "no: " + test.failure() + "; " + std::string(sys::kSelfTestRemedy)));
  print("pins: " + (test.pin_failure().empty() ? "yes" : "no: " + test.pin_failure()));
  return 0;
}
