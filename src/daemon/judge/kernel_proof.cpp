// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/kernel_proof.hpp"

#include <algorithm>

#include "daemon/log.hpp"

namespace ramfold::daemon {

KernelProof prove_kernel(const sys::Procfs& procfs, sys::BorrowedFd userfault_device,
                         const sys::LoadedPinTest& pin_test,
                         const sys::DriverFactory& make_driver) {
  const sys::SelfTest test =
      sys::run_self_test(procfs, userfault_device, pin_test ? &*pin_test : nullptr, make_driver);
  KernelProof proof;
  guest::HostFacts& facts = proof.facts;
  const auto version = procfs.kernel_version();
  facts.kernel = version ? version->text : "unknown";
  facts.kernel_folds = version && version->at_least(6, 7);
  facts.self_test_failure = test.failure();
  if (!pin_test) {
    facts.no_pin_test = {pin_test.error().text(), std::string(pin_test.error().remedy())};
  } else if (facts.self_test_failure.empty()) {
    facts.self_test_failure = test.pin_failure();
  }
  facts.self_test_passed = facts.self_test_failure.empty();
  for (const sys::KernelFact& fact : test.facts) {
    const auto outcome = !fact.tried  ? control::CheckOutcome::skipped
                         : fact.holds ? control::CheckOutcome::passed
                                      : control::CheckOutcome::failed;
    const bool wants_remedy = !fact.holds && (fact.tried || fact.needed);
    proof.views.push_back({std::string(fact.name), outcome, fact.detail,
                           wants_remedy ? std::string(sys::kSelfTestRemedy) : std::string{}});
  }
  if (!pin_test) {
    log::info("self-test: {}; remedy: {}", pin_test.error().text(), pin_test.error().remedy());
  } else if (const std::string failure = test.pin_failure(); !failure.empty()) {
    log::warn("self-test: {}", failure);
  }
  proof.passed = facts.self_test_passed && facts.kernel_folds;
  if (proof.passed) {
    log::info("self-test: {} facts of the kernel hold ({} us)",
              std::ranges::count_if(test.facts, &sys::KernelFact::holds), test.took_us);
  } else {
    log::error("self-test: {}: nothing will be folded: {}", facts.self_test_failure,
               sys::kSelfTestRemedy);
  }
  if (facts.no_pin_test) {
    log::error("nothing will be folded: {}; {}", facts.no_pin_test->text,
               facts.no_pin_test->remedy);
  }
  return proof;
}

}  // namespace ramfold::daemon
