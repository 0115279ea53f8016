// SPDX-License-Identifier: GPL-2.0-or-later
// The encoder's window: the reference, and behind it the page. A place is an offset in the window.
// Threads: one encoder's.
#pragma once

#include <emmintrin.h>
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/page_copy.hpp"
#include "store/patch/format.hpp"

namespace ramfold::store::patch {

inline constexpr unsigned kWindow = 2 * kPage;

template <typename T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

class Window {
 public:
  void fill(const PageCopy& page, const PageCopy& reference) noexcept {
    std::memcpy(bytes_, reference.bytes.data(), kPage);
    std::memcpy(bytes_ + kPage, page.bytes.data(), kPage);
    std::memset(bytes_ + kWindow, 0, kSlack);
    for (unsigned i = 0; i < kPage / 64; ++i) differs_[i] = ~equal64(64 * i, 64 * i + kPage);
    differs_[kPage / 64] = 1;  // ends the search of same_as_reference()
  }

  const std::byte* at(unsigned place) const noexcept { return bytes_ + place; }
  template <typename T>
  T load_at(unsigned place) const noexcept {
    return load<T>(bytes_ + place);
  }

  // How many bytes from `at` on equal the bytes `distance` before them. Stops at the end of the
  // page; and at the end of the reference, if the source begins in it.
  unsigned same_at(unsigned at, unsigned distance) const noexcept {
    if (distance == kStartDistance) return same_as_reference(at - kPage);
    const unsigned from = at - distance;
    const unsigned most = from < kPage ? std::min(kWindow - at, kPage - from) : kWindow - at;
    for (unsigned n = 0; n < most; n += 16) {
      const unsigned differs = equal16(at + n, from + n) ^ 0xffff;
      if (differs != 0) return std::min(most, n + static_cast<unsigned>(std::countr_zero(differs)));
    }
    return most;
  }

  // All 64 bytes of this block are equal in the reference and in the page.
  bool is_same_block(unsigned offset) const noexcept { return differs_[offset / 64] == 0; }

  // A bitmap: bit i is set when the bytes at a + i and b + i are equal. equal16() may read up to 16
  // bytes beyond the window.
  unsigned equal16(unsigned a, unsigned b) const noexcept {
    const auto* x = reinterpret_cast<const __m128i*>(bytes_ + a);
    const auto* y = reinterpret_cast<const __m128i*>(bytes_ + b);
    return static_cast<unsigned>(
        _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(x), _mm_loadu_si128(y))));
  }
  std::uint64_t equal64(unsigned a, unsigned b) const noexcept {
    std::uint64_t equal = 0;
    for (unsigned i = 0; i < 64; i += 16) equal |= std::uint64_t{equal16(a + i, b + i)} << i;
    return equal;
  }

 private:
  static constexpr unsigned kSlack = 16;  // equal16() may begin anywhere in the window

  unsigned same_as_reference(unsigned offset) const noexcept {
    unsigned word = offset / 64;
    const std::uint64_t bits = differs_[word] >> offset % 64;
    if (bits != 0) return static_cast<unsigned>(std::countr_zero(bits));
    do ++word;
    while (differs_[word] == 0);
    return 64 * word + static_cast<unsigned>(std::countr_zero(differs_[word])) - offset;
  }

  alignas(64) std::byte bytes_[kWindow + kSlack];
  std::uint64_t differs_[kPage / 64 + 1];  // bit i: byte i of page and reference differ
};

}  // namespace ramfold::store::patch
