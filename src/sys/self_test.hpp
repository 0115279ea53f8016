// SPDX-License-Identifier: GPL-2.0-or-later
// The start-up self-test. It tries each fact about the kernel that folding depends on, in the
// memory of a child process, before any page of a guest is folded. If a needed fact does not hold,
// VMs are only observed, and the reason names the fact. So a back-ported or patched kernel is
// judged by what it does. Only on kernels that are too old for a failure to be seen does the
// version number decide.
//
// Threads: run_self_test() from one thread; it forks once (again after a failure) and takes about
// 60 ms. The child touches nothing of ours and ends with us.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sys/fd.hpp"
#include "sys/pin_test.hpp"
#include "sys/probe_process.hpp"
#include "sys/procfs.hpp"

namespace ramfold::sys {

struct KernelFact {
  std::string_view name;      // stable, for JSON: "guard-survives-forget"
  std::string_view sentence;  // what must be so
  bool needed = true;         // false: it is reported, and does not stop folding
  bool of_pins = false;       // the gate that asks the kernel depends on it (sys/pin_test.hpp)
  bool tried = false;         // false: the kernel is too old, or lacks a feature
  bool holds = false;
  std::string detail{};  // what was seen when it does not hold
};

struct SelfTest {
  std::vector<KernelFact> facts;
  std::uint64_t took_us = 0;

  bool passed() const;
  // The first needed fact that does not hold, as "name: detail"; empty when all hold. Those of pins
  // apart: a kernel can be fit for folding and have no word to say of pins.
  std::string failure() const;
  std::string pin_failure() const;

 private:
  std::string failure_of(bool of_pins) const;
};

// What the operator can do about a self-test that failed.
inline constexpr std::string_view kSelfTestRemedy =
    "boot the host with an unmodified Linux 6.7 or newer; VMs are only observed meanwhile";

// `device`: /dev/userfaultfd. `pin_test`: null when the kernel loads none; facts of pins are not
// tried then. `make_driver` makes the driver that carries out the calls; tests pass one that does
// something else.
using DriverFactory = std::function<std::unique_ptr<ProbeDriver>(const ProbeProcess&)>;
std::unique_ptr<ProbeDriver> real_driver(const ProbeProcess& process);
SelfTest run_self_test(const Procfs& procfs, BorrowedFd device, const PinTest* pin_test,
                       const DriverFactory& make_driver = real_driver);

}  // namespace ramfold::sys
