// SPDX-License-Identifier: GPL-2.0-or-later
// The start-up self-test: proves on the running kernel every fact of docs/design.md section 2 that
// folding stands on, on memory of a child process of ours, before anything of a guest's is folded.
// A fact that does not hold means observe-only, with the fact named: a back-ported or patched
// kernel is judged by what it does, not by its number. Below the versions where a failure could not
// even be seen the number decides.
//
// Threads: run_self_test() from one thread; it forks once (again after a failure) and takes about
// 50 ms. The child touches nothing of ours and ends with us.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sys/fd.hpp"
#include "sys/probe_process.hpp"
#include "sys/procfs.hpp"

namespace ramfold::sys {

struct KernelFact {
  std::string_view name;      // stable, for JSON: "guard-survives-forget"
  std::string_view sentence;  // what must be so
  bool needed = true;         // not needed ones are told, and stand against nothing
  bool tried = false;         // false: not reached, because the kernel is too old
  bool holds = false;
  std::string detail{};  // what was seen instead
};

struct SelfTest {
  std::vector<KernelFact> facts;
  std::uint64_t took_us = 0;

  bool passed() const;
  // The first needed fact that does not hold, as "name: detail"; empty when all hold.
  std::string failure() const;
};

// What the operator can do about a self-test that failed.
inline constexpr std::string_view kSelfTestRemedy =
    "boot the host with an unmodified Linux 6.7 or newer; VMs are only observed meanwhile";

// `device`: /dev/userfaultfd. `make_driver` makes what carries out the calls; tests pass one that
// lies.
using DriverFactory = std::function<std::unique_ptr<ProbeDriver>(const ProbeProcess&)>;
SelfTest run_self_test(const Procfs& procfs, BorrowedFd device);
SelfTest run_self_test(const Procfs& procfs, BorrowedFd device, const DriverFactory& make_driver);

}  // namespace ramfold::sys
