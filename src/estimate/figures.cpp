// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/figures.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ramfold::estimate {
namespace {

constexpr double kPage = kPageSize;
// Of a normal distribution, 95 % lie within so many standard deviations.
constexpr double kDeviations = 1.96;

// One distinct page in one VM: the cluster it was chosen by, what its pages are, what they take.
struct Term {
  std::uint64_t cluster;
  double raw;
  std::array<double, kMechanisms.size()> kept;
};

double& of(std::array<double, kMechanisms.size()>& kept, Mechanism mechanism) {
  return kept[static_cast<std::size_t>(std::to_underlying(mechanism))];
}

// `share`: which part of the one copy that is kept this VM answers for.
Term term_of(const DistinctPage& page, const Held& held, const KeptAs& kept, double share) {
  const double count = held.count;
  Term term{page.cluster, count * kPage, {}};
  of(term.kept, Mechanism::zero) = term.raw;
  of(term.kept, Mechanism::sharing) = share * kPage;
  of(term.kept, Mechanism::similar) = share * kept.bytes_with_patches();
  of(term.kept, Mechanism::lz4) = count * kept.alone.lz4;
  of(term.kept, Mechanism::zstd) = count * kept.alone.zstd;
  of(term.kept, Mechanism::best) = share * kept.bytes();
  return term;
}

// Sum over clusters of the squares of how far each is from the ratio of all.
double squares_of(const std::vector<Term>& terms, std::size_t mechanism, double ratio) {
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

// `nonzero`, `zero`: bytes of all the pages read.
Savings savings_of(std::vector<Term> terms, double nonzero, double zero, std::uint32_t one_of) {
  Savings savings{};
  std::ranges::sort(terms, {}, &Term::cluster);
  double raw = 0;
  std::array<double, kMechanisms.size()> kept{};
  for (const Term& term : terms) {
    raw += term.raw;
    for (std::size_t i = 0; i < kept.size(); ++i) kept[i] += term.kept[i];
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const double ratio = raw == 0 ? 1 : kept[i] / raw;
    savings[i].bytes = (1 - ratio) * nonzero;
    if (one_of > 1 && raw > 0) {
      const double unseen = 1 - 1.0 / one_of;
      savings[i].plus_minus =
          kDeviations * std::sqrt(unseen * squares_of(terms, i, ratio)) / raw * nonzero;
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
      alone.push_back(term_of(page, held, held.kept, 1));
      across.push_back(term_of(page, held, page.kept, share));
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
