// SPDX-License-Identifier: GPL-2.0-or-later
// Computes from a census how much would be saved. With a sample, the saved share of the sampled
// pages stands for that of all pages that are not frequent. The error comes from the differences
// between clusters: a ratio estimate over clusters (Cochran, Sampling Techniques, 3rd ed., 1977,
// chapters 6 and 9).
// Threads: pure.
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
  lz4,      // every page as an LZ4 block, without sharing
  zstd,     // every page as a zstd frame, without sharing
  best,     // all mechanisms: each distinct page once, in its smallest form
};
inline constexpr std::array kMechanisms{Mechanism::zero, Mechanism::sharing, Mechanism::similar,
                                        Mechanism::lz4,  Mechanism::zstd,    Mechanism::best};
std::string_view name_of(Mechanism mechanism);

struct Saved {
  double bytes = 0;
  double plus_minus = 0;  // bytes: half of the 95 % interval; 0 without sampling
};
using Savings = std::array<Saved, kMechanisms.size()>;

struct VmFigures {
  Savings alone;   // when this VM is folded by itself
  Savings across;  // this VM's part of the saving when pages are shared with the other VMs
};
struct Figures {
  std::vector<VmFigures> vms;  // in the order of the census
  VmFigures together;          // all VMs; `alone`: the sum of the VMs, each by itself
};
Figures figures_of(const Census& census);

}  // namespace ramfold::estimate
