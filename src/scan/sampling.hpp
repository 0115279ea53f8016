// SPDX-License-Identifier: GPL-2.0-or-later
// How much of a VM's RAM is asked about in a pass (scan/referenced.hpp). With some sources the
// guest's next touch of a page costs it time. The share of RAM is such that these touches stay
// within a budget: above it only a sample of the RAM is asked about, another one in each pass.
// Threads: values.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/types.hpp"

namespace ramfold::scan {

class Sampling {
 public:
  struct Price {
    std::uint64_t touch_ns = 0;  // what a touch costs the guest
    double budget = 0;           // seconds of the guest's time that touches may take in a second
  };
  // What one pass has asked.
  struct Asked {
    std::uint64_t candidates = 0;  // pages that could have been asked about
    std::uint64_t forgotten = 0;   // of them, those that were asked about
    std::uint64_t retouched = 0;   // of those that the pass before had asked about
  };
  // Before a pass begins. `elapsed_ns`: since the last one began.
  void next(std::uint64_t elapsed_ns, const Asked& last, Price price) noexcept {
    // A guest that leaves its pages alone may come back to them at once, so what it has touched
    // lately counts at most fourfold.
    const double touched =
        forgotten_ == 0
            ? 1
            : std::clamp(static_cast<double>(last.retouched) / static_cast<double>(forgotten_),
                         0.25, 1.0);
    const double cost_ns = static_cast<double>(price.touch_ns) * touched *
                           static_cast<double>(last.candidates);  // of asking about all
    const double budget_ns = static_cast<double>(elapsed_ns) * price.budget;
    share_ = last.candidates == 0 ? 0 : cost_ns <= budget_ns ? 1 : budget_ns / cost_ns;
    forgotten_ = last.forgotten;
  }
  double share() const noexcept { return share_; }
  // The piece of RAM that begins at `first` belongs to the sample of this pass.
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
