// SPDX-License-Identifier: GPL-2.0-or-later
// How much of a VM's RAM is forgotten in a pass. A forgotten page that the guest touches again
// costs it a fault that the kernel answers alone. The share of RAM is such that these faults stay
// within the budget: above it only a sample of the windows is forgotten, another one in each pass.
// Threads: values.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::scan {

class Sampling {
 public:
  static constexpr double kTouchNs = 1'500;  // measured: one such fault
  static constexpr double kBudget = 0.01;    // of a vCPU's time

  // What one pass has asked.
  struct Asked {
    std::uint64_t candidates = 0;  // pages that could have been forgotten
    std::uint64_t forgotten = 0;   // of them
    std::uint64_t retouched = 0;   // of those that the pass before had forgotten
  };
  // Before a pass begins. `elapsed_ns`: since the last one began.
  void next(std::uint64_t elapsed_ns, const Asked& last) noexcept {
    // A guest that leaves its pages alone may come back to them at once, so what it has touched
    // lately counts at most fourfold.
    const double touched =
        forgotten_ == 0
            ? 1
            : std::clamp(static_cast<double>(last.retouched) / static_cast<double>(forgotten_),
                         0.25, 1.0);
    const double pages = static_cast<double>(elapsed_ns) * kBudget / kTouchNs / touched;
    share_ = last.candidates == 0 ? 0 : std::min(1.0, pages / static_cast<double>(last.candidates));
    forgotten_ = last.forgotten;
  }
  double share() const noexcept { return share_; }
  // The window that begins at `first` belongs to the sample of this pass.
  bool takes(PageIndex first, unsigned pass) const noexcept {
    // The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
    std::uint64_t x = first.value + std::uint64_t{pass} * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return static_cast<double>((x ^ x >> 31) >> 11) * 0x1p-53 < share_;
  }

 private:
  double share_ = 0;
  std::uint64_t forgotten_ = 0;
};

}  // namespace ramfold::scan
