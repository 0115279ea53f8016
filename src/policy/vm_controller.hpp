// SPDX-License-Identifier: GPL-2.0-or-later
// The controller of one VM. It keeps the time that the VM's threads wait for ramfold within the
// VM's stall budget, a share of wall time per vCPU. Call decide() once an epoch: it takes what was
// sensed, and returns how many pages may be folded.
//
//   debt  stall beyond the budget that is not made up for. While there is debt, nothing is folded.
//         So on average the VM stays within its budget, whatever it does.
//   pace  pages a second, after a debt that pages made which came back soon. It begins at
//         budget / 2 / mean time of a fault: if every page came back, this would use half of the
//         budget. It doubles after `grow` seconds in which less than a quarter of the budget was
//         used, again after half of that time, and ends at 64 times its beginning. Each debt
//         doubles `grow`, so that in the end it is longer than the time between two uses of a page.
// Threads: one owner; no clock, no system calls.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "base/types.hpp"

namespace ramfold::policy {

// Counters of one VM, since the daemon's start or since the VM was taken over.
struct VmSense {
  std::uint64_t now_ns = 0;
  std::uint64_t stalled_ns = 0;  // the sum over all of its threads
  std::uint64_t faults = 0;      // that made them wait
  std::uint64_t returned = 0;    // pages that came back soon after they were folded
  unsigned vcpus = 0;            // 0: not known, counted as 1
  ByteCount resident{};
  std::uint64_t touched_ns = 0;  // of stalled_ns, the part that no fault of `faults` made
};

struct VmBudget {
  double stall = 0.01;         // share of wall time per vCPU
  ByteCount resident_floor{};  // folding leaves so much resident
  double pass_seconds = 30;    // the pages of this time may be folded at once
  friend bool operator==(const VmBudget&, const VmBudget&) = default;
};

inline constexpr std::uint64_t kPagesNoLimit = std::numeric_limits<std::uint64_t>::max() / 4;

struct VmActs {
  enum class Because : std::uint8_t { nothing, over_budget, pages_come_back, at_floor };
  Because because = Because::nothing;
  std::uint64_t pages_more = kPagesNoLimit;  // may be folded in addition to those left over
  std::uint64_t pages_max = kPagesNoLimit;   // so many may be folded until the next decision
  bool backs_off = false;                    // debt began in this epoch
  friend bool operator==(const VmActs&, const VmActs&) = default;
};

class VmController {
 public:
  // A debt is forgiven when the VM has been quiet for this long.
  static constexpr double kForgivenSeconds = 3600;
  // Decisions that come sooner than this after the last one repeat it.
  static constexpr std::uint64_t kEpochMinNs = 100'000'000;

  VmActs decide(const VmSense& now, const VmBudget& budget) noexcept;

 private:
  // The decision without the floor.
  VmActs decide_pace(const VmSense& now, const VmBudget& budget) noexcept;
  void begin_debt() noexcept;
  void end_debt(const VmSense& now) noexcept;
  // `allowed`: stall of each second.
  void grow_pace(double seconds, double stalled, double allowed) noexcept;

  std::optional<VmSense> before_;
  VmActs acts_;
  double debt_ = 0;                    // seconds of stall
  std::optional<VmSense> debt_began_;  // its counters; nullopt: no debt
  double pace_ = 0;                    // in multiples of its beginning; 0: no limit
  double grow_ = 0;                    // seconds of the first wait after a debt
  double wait_ = 0;                    // seconds until the pace may double
  double since_grown_ = 0;             // seconds; the stall meanwhile:
  double stalled_since_grown_ = 0;
  double since_debt_ = 0;  // seconds since the last debt ended
};

}  // namespace ramfold::policy
