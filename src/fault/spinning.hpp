// SPDX-License-Identifier: GPL-2.0-or-later
// Decides whether a fault thread stays awake for its next event. To wake a sleeping core takes an
// interrupt, which costs more than the whole fault. So while events come fast, the thread looks for
// the next one again and again, for kSpinNs at most, before it sleeps.
//
// Two things bound the CPU time for that:
//   - Budget: the time spun is at most kTimesServed times the time served. What was not used is
//     kept, up to kBudgetMaxNs.
//   - Success: each spin without an event doubles the number of waits that follow without a spin,
//     up to kRestMax. A spin that finds an event ends this. A thread whose VM runs on the same core
//     learns so that the VM needs that core.
// Threads: one.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ramfold::fault {

class Spinning {
 public:
  static constexpr std::uint64_t kSpinNs = 50'000;
  static constexpr std::uint64_t kTimesServed = 4;
  static constexpr std::uint64_t kBudgetMaxNs = 1'000'000;
  static constexpr std::uint32_t kRestMax = 1024;  // waits

  // Events were served for so long.
  void served(std::uint64_t ns) noexcept {
    budget_ns_ = std::min(budget_ns_ + kTimesServed * std::min(ns, kBudgetMaxNs), kBudgetMaxNs);
  }
  // Asked once before each wait: whether to spin. Without a whole spin's budget it is not tried.
  bool begins() noexcept {
    if (budget_ns_ < kSpinNs) return false;
    if (rest_ == 0) return true;
    --rest_;
    return false;
  }
  // A spin took so long, and an event came or none.
  void ended(std::uint64_t ns, bool came) noexcept {
    budget_ns_ -= std::min(ns, budget_ns_);
    next_rest_ = came ? 1 : std::min(next_rest_ * 2, kRestMax);
    rest_ = came ? 0 : next_rest_;
  }

 private:
  std::uint64_t budget_ns_ = 0;
  std::uint32_t rest_ = 0;       // waits without a spin from now on
  std::uint32_t next_rest_ = 1;  // half of those after the next spin without an event
};

}  // namespace ramfold::fault
