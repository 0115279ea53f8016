// SPDX-License-Identifier: GPL-2.0-or-later
// The budget for forgetting: how much of a VM is asked about in a pass.
#include "scan/sampling.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using scan::Sampling;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr Sampling::Price kPrice{.touch_ns = 1500, .budget = 0.01};
constexpr std::uint64_t kPagesASecond = 6'666;  // 1 % of a second, at 1.5 us a page

}  // namespace

TEST_CASE("nothing is forgotten before a pass has told what there is") {
  Sampling sampling;
  CHECK(sampling.share() == 0);
  sampling.next(kSecond, {}, kPrice);
  CHECK(sampling.share() == 0);
  for (std::uint64_t p = 0; p < 1000; ++p) CHECK_FALSE(sampling.takes(PageIndex{p * 16}, 1));
}

TEST_CASE("what is forgotten stays within the budget, if the guest touches all of it") {
  Sampling sampling;
  const std::uint64_t candidates = GENERATE(1'000u, 100'000u, 10'000'000u);
  Sampling::Asked asked{candidates, 0, 0};
  for (int pass = 0; pass < 10; ++pass) {
    sampling.next(10 * kSecond, asked, kPrice);
    asked.retouched = asked.forgotten;
    asked.forgotten =
        static_cast<std::uint64_t>(sampling.share() * static_cast<double>(candidates));
    CHECK(asked.forgotten <= 10 * kPagesASecond + 10);
    CHECK(asked.forgotten >= std::min(candidates, 10 * kPagesASecond - 1));
  }
}

TEST_CASE("of a guest that leaves its pages alone four times as much is forgotten, not more") {
  Sampling sampling;
  sampling.next(kSecond, {1'000'000, 5'000, 0}, kPrice);
  sampling.next(kSecond, {1'000'000, 5'000, 0}, kPrice);
  CHECK(sampling.share() == Approx(4 * 6666.7 / 1'000'000).epsilon(0.01));
  sampling.next(kSecond, {1'000'000, 5'000, 2'500}, kPrice);
  CHECK(sampling.share() == Approx(2 * 6666.7 / 1'000'000).epsilon(0.01));
  sampling.next(kSecond, {1'000'000, 5'000, 5'000}, kPrice);
  CHECK(sampling.share() == Approx(6666.7 / 1'000'000).epsilon(0.01));
}

TEST_CASE("the sample has its share of the windows, and is another one in each pass") {
  Sampling sampling;
  sampling.next(kSecond, {66'667, 0, 0}, kPrice);
  constexpr unsigned kWindows = 10'000;
  unsigned taken = 0;
  unsigned in_both = 0;
  for (std::uint64_t w = 0; w < kWindows; ++w) {
    const bool now = sampling.takes(PageIndex{w * 16}, 7);
    taken += now;
    in_both += now && sampling.takes(PageIndex{w * 16}, 8);
  }
  CHECK(taken > kWindows / 10 * 9 / 10);
  CHECK(taken < kWindows / 10 * 11 / 10);
  CHECK(in_both < kWindows / 100 * 2);
}

TEST_CASE("without a budget nothing is asked, and where touches cost nothing everything is") {
  Sampling sampling;
  sampling.next(kSecond, {1'000'000, 0, 0}, {.touch_ns = 1500, .budget = 0});
  CHECK(sampling.share() == 0);
  sampling.next(kSecond, {1'000'000, 0, 0}, {.touch_ns = 0, .budget = 0});
  CHECK(sampling.share() == 1);
}
