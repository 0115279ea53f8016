// SPDX-License-Identifier: GPL-2.0-or-later
// From a census to what would be saved. Where only a sample was kept, the saved share of the
// sampled pages is taken for that of all but the frequent ones, and the error comes from how much
// the clusters differ (a ratio estimate over clusters: Cochran, Sampling Techniques, 3rd ed., 1977,
// chapters 6 and 9). Threads: pure.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "estimate/census.hpp"

namespace ramfold::estimate {

enum class Mechanism : std::uint8_t {
  zero,     // pages that are all zero take nothing
  sharing,  // equal pages are kept once
  similar,  // sharing, and patches against similar pages
  lz4,      // every page by itself
  zstd,     // every page by itself
  best,     // all of them: each distinct page in its smallest form
};
inline constexpr std::array kMechanisms{Mechanism::zero, Mechanism::sharing, Mechanism::similar,
                                        Mechanism::lz4,  Mechanism::zstd,    Mechanism::best};
std::string_view name_of(Mechanism mechanism);

struct Saved {
  double bytes = 0;
  double plus_minus =
      0;  // bytes: the true value is within, 19 times of 20; 0 when all was looked at
};
using Savings = std::array<Saved, kMechanisms.size()>;

struct VmFigures {
  Savings alone;   // when this VM is folded by itself
  Savings across;  // its part of what is saved when pages are shared with the other VMs
};
struct Figures {
  std::vector<VmFigures> vms;  // in the order of the census
  VmFigures together;          // alone: the sum of the VMs, each by itself
};
Figures figures_of(const Census& census);

}  // namespace ramfold::estimate
