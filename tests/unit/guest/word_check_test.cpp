// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/word_check.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <bit>

using namespace ramfold;
using guest::Tag;
using guest::Word;
using guest::WordCheck;

namespace {

constexpr PageIndex kP{77};
constexpr std::uint64_t kSeed = 0x5eed'5eed'5eed;

constexpr std::uint64_t bit(unsigned i) { return std::uint64_t{1} << i; }

const std::array kWords{Word{}.becomes(Tag::folded, ContentId{1}, 0, 0),
                        Word{}.becomes(Tag::folded, ContentId{0xffff'ffff}, 255, 7),
                        Word{}.becomes(Tag::clean, ContentId{12345}, 9, 1),
                        Word{}.becomes(Tag::observed, 0xdead'beefu, 3, 0),
                        Word{}.becomes(Tag::poisoned, 0u, 0, 0),
                        Word{}.becomes(Tag::none, 0u, 0, 2)};

// Calls f with every set of `n` bits of 64.
template <typename F>
void each_set(unsigned n, F f, std::uint64_t bits = 0, unsigned from = 0) {
  if (n == 0) return f(bits);
  for (unsigned i = from; i + n <= 64; ++i) each_set(n - 1, f, bits | bit(i), i + 1);
}

}  // namespace

TEST_CASE("a word comes out as it was put in, and an empty one is stored as 0") {
  const WordCheck check(kSeed);
  for (const Word word : kWords) {
    const auto out = check.open(kP, check.seal(kP, word));
    REQUIRE(out.has_value());
    CHECK(*out == word);
  }
  CHECK(check.seal(kP, Word{}) == 0);
  CHECK(check.open(kP, 0).value() == Word{});
}

TEST_CASE("every damage of one to four bits of a word is detected") {
  const WordCheck check(kSeed);
  for (const Word word : kWords) {
    const std::uint64_t stored = check.seal(kP, word);
    std::uint64_t missed = 0;
    for (unsigned n = 1; n <= 4; ++n) {
      each_set(n, [&](std::uint64_t damage) {
        // All its ones gone: it reads as empty.
        if (damage != stored) missed += check.open(kP, stored ^ damage).has_value();
      });
    }
    CHECK(missed == 0);
  }
}

TEST_CASE("every damage of an odd number of bits is detected, also in an empty word") {
  for (std::uint64_t p = 0; p < 64; ++p) {
    const WordCheck check(kSeed + p * p);
    std::uint64_t missed = 0;
    for (const unsigned n : {1u, 3u}) {
      each_set(
          n, [&](std::uint64_t damage) { missed += check.open(PageIndex{p}, damage).has_value(); });
    }
    CHECK(missed == 0);
    // No word is one bit away from an empty one.
    for (const Word word : kWords) CHECK(std::popcount(check.seal(PageIndex{p}, word)) % 2 == 0);
  }
}

TEST_CASE("a word of another page or another VM is refused, but for one in 131,072") {
  const WordCheck check(kSeed);
  const std::uint64_t stored = check.seal(kP, kWords[0]);
  constexpr std::uint64_t kTries = 1u << 19;  // four are expected to pass
  std::uint64_t pages = 0;
  std::uint64_t vms = 0;
  for (std::uint64_t i = 1; i <= kTries; ++i) {
    pages += check.open(PageIndex{kP.value + i}, stored).has_value();
    vms += WordCheck(kSeed + i).open(kP, stored).has_value();
  }
  CHECK(pages < 24);
  CHECK(vms < 24);
}
