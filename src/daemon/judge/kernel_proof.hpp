// SPDX-License-Identifier: GPL-2.0-or-later
// Tests at the start the facts about the running kernel that folding relies on.
// Threads: any; no state of its own. Takes some tens of milliseconds.
#pragma once

#include <vector>

#include "control/views.hpp"
#include "guest/facts.hpp"
#include "sys/fd.hpp"
#include "sys/pin_test.hpp"
#include "sys/procfs.hpp"
#include "sys/self_test.hpp"

namespace ramfold::daemon {

struct KernelProof {
  guest::HostFacts facts;
  std::vector<control::SelfTestView> views;  // one per fact, for `doctor`
  bool passed = false;  // the self-test, the facts of pins included where they could be tried
};

// `userfault_device`: /dev/userfaultfd. `make_driver`: as of sys::run_self_test().
KernelProof prove_kernel(const sys::Procfs& procfs, sys::BorrowedFd userfault_device,
                         const sys::LoadedPinTest& pin_test,
                         const sys::DriverFactory& make_driver = sys::real_driver);

}  // namespace ramfold::daemon
