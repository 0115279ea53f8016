// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/transpose.hpp"

namespace ramfold::store {
namespace {

// All bounds are constants, so the compiler turns the loops into shuffles.
template <std::size_t kWidth>
void to_columns(const std::byte* from, std::byte* to) noexcept {
  constexpr std::size_t kWords = kPageSize / kWidth;
  for (std::size_t word = 0; word < kWords; ++word) {
    for (std::size_t i = 0; i < kWidth; ++i) to[i * kWords + word] = from[word * kWidth + i];
  }
}

template <std::size_t kWidth>
void to_words(const std::byte* from, std::byte* to) noexcept {
  constexpr std::size_t kWords = kPageSize / kWidth;
  for (std::size_t word = 0; word < kWords; ++word) {
    for (std::size_t i = 0; i < kWidth; ++i) to[word * kWidth + i] = from[i * kWords + word];
  }
}

}  // namespace

void transpose(Transpose t, const std::byte* from, std::byte* to) noexcept {
  if (t == Transpose::words4) {
    to_columns<4>(from, to);
  } else {
    to_columns<8>(from, to);
  }
}

void transpose_back(Transpose t, const std::byte* from, std::byte* to) noexcept {
  if (t == Transpose::words4) {
    to_words<4>(from, to);
  } else {
    to_words<8>(from, to);
  }
}

}  // namespace ramfold::store
