// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/figures.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

namespace ramfold::estimate {
namespace {

constexpr double kPage = kPageSize;
// 95 % of a normal distribution lie within this many standard deviations.
constexpr double kDeviations = 1.96;

// One distinct page in one VM: its cluster, the bytes of its copies, and the bytes that remain with
// each mechanism.
struct Term {
  std::uint64_t cluster;
  bool frequent;  // stands only for itself
  double raw;
  std::array<double, kMechanisms.size()> kept;
};

double& of(std::array<double, kMechanisms.size()>& kept, Mechanism mechanism) {
  return kept[static_cast<std::size_t>(std::to_underlying(mechanism))];
}

// `share`: the part of the one shared copy that is charged to this VM.
Term term_of(const DistinctPage& page, bool frequent, const Held& held, const KeptAs& kept,
             double share) {
  const double count = held.count;
  Term term{page.cluster, frequent, count * kPage, {}};
  of(term.kept, Mechanism::zero) = term.raw;
  of(term.kept, Mechanism::sharing) = share * kPage;
  of(term.kept, Mechanism::similar) = share * kept.bytes_with_patches();
  of(term.kept, Mechanism::lz4) = count * kept.alone.lz4;
  of(term.kept, Mechanism::zstd) = count * kept.alone.zstd;
  of(term.kept, Mechanism::best) = share * kept.bytes();
  return term;
}

// Sum over clusters of (kept bytes - ratio * raw bytes)^2. REQUIRES: terms of one cluster are
// adjacent.
double squares_of(std::span<const Term> terms, std::size_t mechanism, double ratio) {
  double sum = 0;
  for (auto term = terms.begin(); term != terms.end();) {
    const std::uint64_t cluster = term->cluster;
    double off = 0;
    for (; term != terms.end() && term->cluster == cluster; ++term) {
      off += term->kept[mechanism] - ratio * term->raw;
    }
    sum += off * off;
  }
  return sum;
}

struct Sums {
  double raw = 0;
  std::array<double, kMechanisms.size()> kept{};
};
Sums sums_of(std::span<const Term> terms) {
  Sums sums;
  for (const Term& term : terms) {
    sums.raw += term.raw;
    for (std::size_t i = 0; i < sums.kept.size(); ++i) sums.kept[i] += term.kept[i];
  }
  return sums;
}

// `nonzero`, `zero`: bytes of all pages that were read, in the sample or not.
Savings savings_of(std::vector<Term> terms, double nonzero, double zero, std::uint32_t one_of) {
  Savings savings{};
  std::ranges::sort(terms, {},
                    [](const Term& term) { return std::pair(term.frequent, term.cluster); });
  const auto first_frequent = std::ranges::find(terms, true, &Term::frequent);
  const std::span<const Term> sample(terms.begin(), first_frequent);
  const Sums sampled = sums_of(sample);
  const Sums frequent = sums_of({first_frequent, terms.end()});
  const double rest = std::max(0.0, nonzero - frequent.raw);  // bytes that the sample stands for
  for (std::size_t i = 0; i < savings.size(); ++i) {
    const double ratio = sampled.raw == 0 ? 1 : sampled.kept[i] / sampled.raw;
    savings[i].bytes = frequent.raw - frequent.kept[i] + (1 - ratio) * rest;
    if (one_of > 1 && sampled.raw > 0) {
      const double unseen = 1 - 1.0 / one_of;
      savings[i].plus_minus =
          kDeviations * std::sqrt(unseen * squares_of(sample, i, ratio)) / sampled.raw * rest;
    }
  }
  const auto at = [&](Mechanism mechanism) -> Saved& {
    return savings[static_cast<std::size_t>(std::to_underlying(mechanism))];
  };
  at(Mechanism::zero) = {zero, 0};
  at(Mechanism::best).bytes += zero;
  return savings;
}

double nonzero_bytes(const VmCensus& vm) {
  return static_cast<double>(vm.touched.value - vm.zero.value) * kPage;
}
double zero_bytes(const VmCensus& vm) { return static_cast<double>(vm.zero.value) * kPage; }

}  // namespace

std::string_view name_of(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::zero: return "zero";
    case Mechanism::sharing: return "sharing";
    case Mechanism::similar: return "similar";
    case Mechanism::lz4: return "lz4";
    case Mechanism::zstd: return "zstd";
    case Mechanism::best: return "best";
  }
  return "?";
}

Figures figures_of(const Census& census) {
  Figures figures;
  std::vector<Term> all_alone, all_across;
  double nonzero = 0, zero = 0;
  for (const VmCensus& vm : census.vms()) {
    std::vector<Term> alone, across;
    for (const Held& held : vm.held) {
      const DistinctPage& page = census.distinct()[held.page];
      const double share = static_cast<double>(held.count) / static_cast<double>(page.count);
      const bool frequent = Census::is_frequent(page);
      alone.push_back(term_of(page, frequent, held, held.kept, 1));
      across.push_back(term_of(page, frequent, held, page.kept, share));
    }
    all_alone.insert(all_alone.end(), alone.begin(), alone.end());
    all_across.insert(all_across.end(), across.begin(), across.end());
    figures.vms.push_back(
        {savings_of(std::move(alone), nonzero_bytes(vm), zero_bytes(vm), census.one_of()),
         savings_of(std::move(across), nonzero_bytes(vm), zero_bytes(vm), census.one_of())});
    nonzero += nonzero_bytes(vm);
    zero += zero_bytes(vm);
  }
  figures.together = {savings_of(std::move(all_alone), nonzero, zero, census.one_of()),
                      savings_of(std::move(all_across), nonzero, zero, census.one_of())};
  return figures;
}

}  // namespace ramfold::estimate
