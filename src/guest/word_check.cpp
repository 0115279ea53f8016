// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/word_check.hpp"

#include <array>
#include <bit>

namespace ramfold::guest {
namespace {

// For the test that shows what the check is for.
#ifdef RAMFOLD_TEST_NO_WORD_CHECK
constexpr bool kBelieved = true;
#else
constexpr bool kBelieved = false;
#endif
constexpr unsigned kDegree = Word::kCheckBits;
constexpr std::uint64_t kCheckMask = (std::uint64_t{1} << kDegree) - 1;
static_assert(std::bit_width(WordCheck::kGenerator) == kDegree + 1);
static_assert(std::popcount(WordCheck::kGenerator) % 2 == 0, "a multiple of x + 1");

constexpr std::size_t kDataBytes = 6;  // the 46 bits above the check
using Table = std::array<std::array<std::uint32_t, 256>, kDataBytes>;

// kRemainders[k][b] is the remainder of b * x^(18 + 8k).
constexpr Table make_remainders() {
  Table table{};
  std::uint32_t power = 1;
  const auto times_x = [](std::uint32_t r) {
    r <<= 1;
    return (r >> kDegree) != 0 ? r ^ WordCheck::kGenerator : r;
  };
  for (unsigned i = 0; i < kDegree; ++i) power = times_x(power);
  for (auto& row : table) {
    for (unsigned bit = 0; bit < 8; ++bit, power = times_x(power)) {
      for (unsigned b = 0; b < 256; ++b) {
        if ((b >> bit & 1) != 0) row[b] ^= power;
      }
    }
  }
  return table;
}
constexpr Table kRemainders = make_remainders();

std::uint32_t remainder_of_data(std::uint64_t stored) noexcept {
  std::uint32_t remainder = 0;
  std::uint64_t data = stored >> kDegree;
  for (const auto& row : kRemainders) {
    remainder ^= row[data & 255];
    data >>= 8;
  }
  return remainder;
}

}  // namespace

std::uint32_t WordCheck::mark_of(PageIndex p) const noexcept {
  std::uint64_t x = seed_ + p.value * 0x9e37'79b9'7f4a'7c15;
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11eb;
  const auto bits = static_cast<std::uint32_t>(x >> (64 - (kDegree - 1)));
  return bits << 1 | static_cast<std::uint32_t>(__builtin_parity(bits));
}

std::uint64_t WordCheck::seal(PageIndex p, Word word) const noexcept {
  if (word == Word{}) return 0;
  return word.bits() | (remainder_of_data(word.bits()) ^ mark_of(p));
}

LoadedWord WordCheck::open(PageIndex p, std::uint64_t stored) const noexcept {
  if (stored == 0) return Word{};
  const Word word{stored & ~kCheckMask};
  // An empty word is stored as 0, so that there is only one way to store each word.
  const bool fits = kBelieved || (remainder_of_data(stored) ^ (stored & kCheckMask)) == mark_of(p);
  if (word == Word{} || static_cast<std::size_t>(word.tag()) >= kTags || !fits) {
    return std::unexpected(DamagedWord{stored});
  }
  return word;
}

}  // namespace ramfold::guest
