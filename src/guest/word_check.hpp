// SPDX-License-Identifier: GPL-2.0-or-later
// The check in each word of a page table in memory: 18 bits over tag, back-off, age, payload, the
// page's index and the VM. A word that does not fit is never believed: a wrong ContentId would give
// a guest the bytes of somebody else's page.
//
// The 64 bits of a stored word are taken as a polynomial over GF(2). Its remainder modulo
// kGenerator must be the page's mark, which is made of the page's index and the table's seed. An
// empty word is stored as 0, whatever its mark is: a sparse table of zeros says that nothing is
// known.
//
// What is detected:
// - every damage of an odd number of bits, a single one above all: marks have an even number of
//   ones, and the remainder keeps the parity;
// - in a word that says something: every damage of 2 and 4 bits, for the code's distance is 6
//   (tests/unit/guest/word_check_test.cpp tries all);
// - of all other damage, and of words from another page or another VM: all but one in 2^17. Of
//   random bits: all but one in 2^18.
// Not detected: that all the ones of a word became zeros. It then reads as empty.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <expected>

#include "base/types.hpp"
#include "guest/page_state.hpp"

namespace ramfold::guest {

// A damaged word, as it lies in memory. It is only good for PageTable::repair().
struct DamagedWord {
  std::uint64_t stored;
};
using LoadedWord = std::expected<Word, DamagedWord>;

class WordCheck {
 public:
  // x^18 + x^17 + x^9 + x^8 + x^7 + x^3 + x + 1; a multiple of x + 1. Of the polynomials whose code
  // of 64 bits has distance 6, it leaves the fewest damages of 6 bits undetected.
  static constexpr std::uint32_t kGenerator = 0x6038b;

  // `seed`: the same for a table in every daemon, different for every VM.
  explicit WordCheck(std::uint64_t seed) noexcept : seed_(seed) {}

  // The stored form of p's word; open() reads it back.
  std::uint64_t seal(PageIndex p, Word word) const noexcept;
  LoadedWord open(PageIndex p, std::uint64_t stored) const noexcept;

 private:
  std::uint32_t mark_of(PageIndex p) const noexcept;

  std::uint64_t seed_;
};

}  // namespace ramfold::guest
