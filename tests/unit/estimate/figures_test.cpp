// SPDX-License-Identifier: GPL-2.0-or-later
// What would be saved of RAM whose answer is known.
#include "estimate/figures.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::estimate;
using test::changed;
using test::FakeRam;
using test::noise;
using test::zeros;

namespace {

constexpr double kPage = kPageSize;

const Saved& at(const Savings& savings, Mechanism mechanism) {
  return savings[static_cast<std::size_t>(mechanism)];
}
double pages(const Savings& savings, Mechanism mechanism) {
  return at(savings, mechanism).bytes / kPage;
}
void add(Census& census, FakeRam& ram, std::uint64_t* read = nullptr) {
  REQUIRE(census.add("vm", ram, [&](PageCount n) {
    if (read != nullptr) *read += n.value;
  }));
}

// Text that compresses, a different one for each number.
PageCopy text(std::uint32_t number) {
  PageCopy page = noise(number);
  for (std::size_t i = kPageSize / 4; i < kPageSize; ++i) page.bytes[i] = page.bytes[i % 64];
  return page;
}

// Many pages: zeros, noise, text; some equal, some alike. The same for each seed.
std::vector<PageCopy> mixture(std::uint32_t seed, std::size_t count) {
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t end) { return static_cast<std::uint32_t>(random() % end); };
  constexpr std::uint32_t kCommon = 500, kAny = 1u << 31;
  std::vector<PageCopy> ram;
  while (ram.size() < count) {
    switch (below(5)) {
      case 0: ram.push_back(zeros()); break;
      case 1: ram.push_back(noise(below(kAny))); break;
      case 2: ram.push_back(text(below(kAny))); break;
      case 3: ram.push_back(text(below(kCommon))); break;
      default: ram.push_back(changed(noise(below(kCommon)), 1 + below(20))); break;
    }
  }
  return ram;
}

}  // namespace

TEST_CASE("two VMs whose saving can be told by hand") {
  FakeRam a({zeros(), noise(1), noise(1), zeros(), noise(1), noise(1), noise(2)});
  FakeRam b({noise(1), changed(noise(2), 5)});
  Census census(1);
  std::uint64_t read = 0;
  add(census, a, &read);
  add(census, b, &read);
  CHECK(read == 9);
  CHECK(census.distinct().size() == 3);
  CHECK(census.vms()[0].touched == PageCount{7});
  CHECK(census.vms()[0].zero == PageCount{2});

  const Figures figures = figures_of(census);
  const VmFigures& of_a = figures.vms[0];
  const VmFigures& of_b = figures.vms[1];
  CHECK(pages(of_a.alone, Mechanism::zero) == Approx(2));
  CHECK(pages(of_a.alone, Mechanism::sharing) == Approx(3));
  CHECK(pages(of_a.alone, Mechanism::lz4) == Approx(0).margin(1e-9));
  CHECK(pages(of_a.alone, Mechanism::zstd) == Approx(0).margin(1e-9));
  CHECK(pages(of_a.alone, Mechanism::best) == Approx(5));
  CHECK(pages(of_b.alone, Mechanism::best) == Approx(0).margin(1e-9));

  // noise(1) is there five times, four of them in a: of the one copy a answers for four fifths.
  CHECK(pages(of_a.across, Mechanism::sharing) == Approx(3.2));
  CHECK(pages(of_b.across, Mechanism::sharing) == Approx(0.8));
  CHECK(pages(figures.together.across, Mechanism::sharing) == Approx(4));
  CHECK(pages(figures.together.alone, Mechanism::sharing) == Approx(3));

  // b's second page is a patch against a's last.
  const double similar = pages(figures.together.across, Mechanism::similar);
  CHECK(similar > 4.95);
  CHECK(similar < 5);
  CHECK(pages(figures.together.across, Mechanism::best) == Approx(similar + 2));
  for (const Saved& saved : figures.together.across) CHECK(saved.plus_minus == 0);
}

TEST_CASE("each page takes its smallest form") {
  FakeRam ram({text(1), text(2), changed(text(1), 3)});
  Census census(1);
  add(census, ram);
  const Figures figures = figures_of(census);
  const Savings& saved = figures.vms[0].alone;
  for (const DistinctPage& page : census.distinct()) {
    CHECK(page.kept.alone.lz4 < kPageSize / 2);
    CHECK(page.kept.alone.zstd < kPageSize / 2);
  }
  CHECK(census.distinct()[2].kept.patch != 0);
  CHECK(census.distinct()[2].kept.patch < 100);
  double kept = 0;
  for (const DistinctPage& page : census.distinct()) kept += page.kept.bytes();
  CHECK(at(saved, Mechanism::best).bytes == Approx(3 * kPage - kept));
  CHECK(at(saved, Mechanism::best).bytes > at(saved, Mechanism::zstd).bytes);
  CHECK(at(saved, Mechanism::best).bytes > at(saved, Mechanism::similar).bytes);
}

TEST_CASE("no patch is told by a patch") {
  // Each resembles the one before more than the first.
  std::vector<PageCopy> chain{noise(1)};
  for (int i = 0; i < 20; ++i) {
    PageCopy next = chain.back();
    next.bytes[static_cast<std::size_t>(i) * 3] ^=
        std::byte{1};  // all in one block: they stay alike
    chain.push_back(next);
  }
  FakeRam ram(chain);
  Census census(1);
  add(census, ram);
  CHECK(census.distinct()[0].kept.patch == 0);
  for (std::size_t i = 1; i < chain.size(); ++i) {
    INFO(i);
    const std::uint16_t patch = census.distinct()[i].kept.patch;
    CHECK(patch != 0);
    // It tells all the changes since the first page, at least a byte for each.
    CHECK(patch >= i);
  }
}

TEST_CASE("a page of which there are very many is never left to chance") {
  std::vector<PageCopy> ram;
  for (std::uint32_t i = 0; i < 6000; ++i) {
    ram.push_back(noise(i));
    ram.push_back(text(1'000'000));
    if (i % 2 == 0) ram.push_back(noise(1'000'001));
  }
  FakeRam source(ram);
  for (const std::uint32_t one_of : {1u, 2u, 3u, 5u, 7u, 11u, 64u}) {
    INFO(one_of);
    Census census(one_of);
    add(census, source);
    const Figures figures = figures_of(census);
    const Savings& saved = figures.vms[0].alone;
    // 6000 and 3000 equal pages. Until it is known that they are many, some are missed.
    CHECK(pages(saved, Mechanism::sharing) == Approx(8998).margin(2 * Frequent::kOften));
    const double text_bytes = census.distinct()[1].kept.alone.lz4;
    if (one_of == 1) CHECK(at(saved, Mechanism::lz4).bytes == Approx(6000 * (kPage - text_bytes)));
    CHECK(pages(saved, Mechanism::lz4) > 3000);
    CHECK(pages(saved, Mechanism::best) > pages(saved, Mechanism::sharing) - 1);
  }
}

TEST_CASE("RAM that holds nothing, or only zeros, saves nothing else") {
  FakeRam nothing({}), only_zeros({zeros(), zeros()});
  Census census(1);
  add(census, nothing);
  add(census, only_zeros);
  const Figures figures = figures_of(census);
  CHECK(pages(figures.vms[0].alone, Mechanism::best) == 0);
  CHECK(pages(figures.vms[1].alone, Mechanism::best) == Approx(2));
  CHECK(pages(figures.together.across, Mechanism::sharing) == 0);
}

TEST_CASE("a sample says what all pages say, within its error") {
  constexpr std::size_t kPages = 20'000;
  FakeRam a(mixture(1, kPages)), b(mixture(2, kPages));
  const auto figures_by = [&](std::uint32_t one_of) {
    Census census(one_of);
    add(census, a);
    add(census, b);
    // Equal pages are chosen together: a page counts as often in the sample as in all.
    if (one_of > 1) {
      CHECK(census.distinct().size() < kPages / one_of * 2);
    }
    return figures_of(census);
  };
  const Figures whole = figures_by(1);
  int within = 0, looked = 0;
  for (const std::uint32_t one_of : {3u, 4u, 5u, 7u, 11u}) {
    const Figures sampled = figures_by(one_of);
    CHECK(at(sampled.vms[0].alone, Mechanism::zero).bytes ==
          at(whole.vms[0].alone, Mechanism::zero).bytes);
    for (const Mechanism mechanism : {Mechanism::sharing, Mechanism::lz4, Mechanism::zstd}) {
      for (const auto& [some, all] : {std::pair(&sampled.together.across, &whole.together.across),
                                      std::pair(&sampled.vms[1].alone, &whole.vms[1].alone)}) {
        const Saved& saved = at(*some, mechanism);
        CHECK(saved.plus_minus > 0);
        CHECK(saved.plus_minus < 0.2 * at(*all, mechanism).bytes);
        // Four times the interval is never missed; the interval itself now and then.
        const double off = std::abs(saved.bytes - at(*all, mechanism).bytes);
        CHECK(off < 4 * saved.plus_minus);
        within += off <= saved.plus_minus ? 1 : 0;
        ++looked;
      }
    }
    // Of similar pages a sample may miss some, and invents none beyond its error.
    const Saved& best = at(sampled.together.across, Mechanism::best);
    const double all = at(whole.together.across, Mechanism::best).bytes;
    CHECK(best.bytes < all + 2 * best.plus_minus);
    CHECK(best.bytes > 0.9 * all);
  }
  CHECK(within >= looked * 8 / 10);
}
