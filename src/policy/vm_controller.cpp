// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/vm_controller.hpp"

#include <algorithm>
#include <cmath>

namespace ramfold::policy {
namespace {

constexpr std::uint64_t kPagesMaxLeast = 16;  // at every pace
constexpr double kPaceEnds = 64;
constexpr double kGrowSecondsMin = 60;
constexpr double kGrowSecondsMax = 3600;
constexpr double kGrowForgottenSeconds = 2 * 3600;  // without debt

// Folding at this pace uses half of what is allowed if every page comes back.
double pages_a_second(const VmSense& now, double allowed) noexcept {
  constexpr double kFaultNsUsual = 20'000;
  const double fault_ns = now.faults == 0 ? kFaultNsUsual
                                          : static_cast<double>(now.stalled_ns - now.touched_ns) /
                                                static_cast<double>(now.faults);
  return allowed / 2 / (std::max(fault_ns, 1000.0) / 1e9);
}

void keep_floor(const VmSense& now, const VmBudget& budget, VmActs& acts) noexcept {
  if (budget.resident_floor.value == 0) return;
  const std::uint64_t above =
      now.resident <= budget.resident_floor
          ? 0
          : (now.resident.value - budget.resident_floor.value) >> kPageShift;
  if (above == 0 && acts.pages_max != 0) acts.because = VmActs::Because::at_floor;
  acts.pages_max = std::min(acts.pages_max, above);
}

}  // namespace

VmActs VmController::decide(const VmSense& now, const VmBudget& budget) noexcept {
  const bool too_soon =
      before_ && now.now_ns >= before_->now_ns && now.now_ns - before_->now_ns < kEpochMinNs;
  const bool anew =
      !before_ || now.now_ns < before_->now_ns || now.stalled_ns < before_->stalled_ns;
  if (!too_soon && !anew) {
    acts_ = decide_pace(now, budget);
  } else {
    acts_.backs_off = false;
    if (before_) acts_.pages_more = 0;
  }
  if (!too_soon) before_ = now;
  VmActs acts = acts_;
  keep_floor(now, budget, acts);
  return acts;
}

VmActs VmController::decide_pace(const VmSense& now, const VmBudget& budget) noexcept {
  // Sense.
  const double seconds = static_cast<double>(now.now_ns - before_->now_ns) / 1e9;
  const double stalled = static_cast<double>(now.stalled_ns - before_->stalled_ns) / 1e9;
  const double allowed = budget.stall * std::max(now.vcpus, 1u);  // of each second

  // Decide.
  VmActs acts;
  debt_ = std::clamp(debt_ + stalled - allowed * seconds, 0.0, allowed * kForgivenSeconds);
  acts.backs_off = debt_ > 0 && !debt_began_;
  if (acts.backs_off) begin_debt();
  if (debt_ == 0 && debt_began_) end_debt(now);
  if (debt_ == 0) grow_pace(seconds, stalled, allowed);

  // Act.
  if (debt_ > 0) {
    acts.because = VmActs::Because::over_budget;
    acts.pages_more = acts.pages_max = 0;
  } else if (pace_ > 0) {
    acts.because = VmActs::Because::pages_come_back;
    const double pages = pace_ * pages_a_second(now, allowed);
    acts.pages_more = static_cast<std::uint64_t>(std::ceil(pages * seconds));
    acts.pages_max = std::max(kPagesMaxLeast,
                              static_cast<std::uint64_t>(std::ceil(pages * budget.pass_seconds)));
  }
  return acts;
}

void VmController::begin_debt() noexcept {
  grow_ = grow_ == 0 || since_debt_ > kGrowForgottenSeconds ? kGrowSecondsMin
                                                            : std::min(grow_ * 2, kGrowSecondsMax);
  debt_began_ = before_;
}

// A burst of pages that had been away for long is no sign that folding was wrong: no pace.
void VmController::end_debt(const VmSense& now) noexcept {
  const std::uint64_t returned = now.returned - std::min(now.returned, debt_began_->returned);
  const std::uint64_t faults = now.faults - std::min(now.faults, debt_began_->faults);
  pace_ = returned >= faults / 2 && returned > 0 ? 1 : 0;
  debt_began_.reset();
  wait_ = grow_;
  since_debt_ = since_grown_ = stalled_since_grown_ = 0;
}

void VmController::grow_pace(double seconds, double stalled, double allowed) noexcept {
  since_debt_ += seconds;
  if (pace_ == 0) return;
  since_grown_ += seconds;
  stalled_since_grown_ += stalled;
  if (since_grown_ < wait_) return;
  const double budget = allowed * since_grown_;
  const bool quiet = stalled_since_grown_ < budget / 4;
  if (quiet) pace_ *= 2;
  wait_ = quiet ? std::max(wait_ / 2, kGrowSecondsMin) : grow_;
  if (pace_ > kPaceEnds) pace_ = 0;
  since_grown_ = stalled_since_grown_ = 0;
}

}  // namespace ramfold::policy
