// SPDX-License-Identifier: GPL-2.0-or-later
// For every place of a page, what could be copied there: of each length that is found the nearest.
// Threads: belongs to one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "store/mix/model.hpp"

namespace ramfold::store::mix {

struct Match {
  std::uint16_t length;
  std::uint16_t distance;
};

// How many bytes are equal, up to `most`.
inline unsigned equal_bytes(const std::uint8_t* a, const std::uint8_t* b, unsigned most) noexcept {
  unsigned n = 0;
  for (; n + 8 <= most; n += 8) {
    std::uint64_t x = 0;
    std::uint64_t y = 0;
    std::memcpy(&x, a + n, 8);
    std::memcpy(&y, b + n, 8);
    if (x != y) return n + static_cast<unsigned>(std::countr_zero(x ^ y)) / 8;
  }
  while (n < most && a[n] == b[n]) ++n;
  return n;
}

class Matches {
 public:
  Matches() { found_.reserve(4 * kPage); }

  void find(const Window& window) {
    found_.clear();
    pairs_.fill(0);
    triples_.fill(0);
    const std::uint8_t* const begin = window.page - window.reference;
    const unsigned end = window.reference + kPage;
    for (unsigned at = 0; at < end; ++at) {
      if (at >= window.reference) {
        first_[at - window.reference] = static_cast<std::uint32_t>(found_.size());
        add(begin, at, end - at);
      }
      if (end - at < 3) continue;
      // Places are kept plus one: 0 is none.
      pairs_[hash(pair(begin + at), kPairBits)] = static_cast<std::uint16_t>(at + 1);
      std::uint16_t& head = triples_[triple(begin + at)];
      before_[at] = head;
      head = static_cast<std::uint16_t>(at + 1);
    }
    first_[kPage] = static_cast<std::uint32_t>(found_.size());
  }
  // Longer and longer, farther and farther.
  std::span<const Match> at(unsigned place) const noexcept {
    return std::span(found_).subspan(first_[place], first_[place + 1] - first_[place]);
  }

 private:
  static constexpr unsigned kTries = 48;
  static constexpr unsigned kPairBits = 12;
  static constexpr unsigned kTripleBits = 13;

  static constexpr unsigned hash(unsigned value, unsigned bits) noexcept {
    return value * 0x9e37'79b1u >> (32 - bits);
  }
  static unsigned pair(const std::uint8_t* p) noexcept { return p[0] | unsigned{p[1]} << 8; }
  static unsigned triple(const std::uint8_t* p) noexcept {
    return hash(pair(p) | unsigned{p[2]} << 16, kTripleBits);
  }
  void add(const std::uint8_t* begin, unsigned at, unsigned most) {
    if (most < 3) return;
    unsigned best = 1;
    const auto consider = [&](unsigned from) {
      const unsigned length = equal_bytes(begin + from, begin + at, most);
      if (length <= best) return;
      best = length;
      found_.push_back({static_cast<std::uint16_t>(length), static_cast<std::uint16_t>(at - from)});
    };
    if (const unsigned from = pairs_[hash(pair(begin + at), kPairBits)]; from != 0)
      consider(from - 1);
    unsigned from = triples_[triple(begin + at)];
    for (unsigned tries = 0; from != 0 && tries < kTries && best < most; ++tries) {
      const std::uint8_t* const p = begin + from - 1;
      if (best < most && p[best] == begin[at + best]) consider(from - 1);
      from = before_[from - 1];
    }
  }

  std::vector<Match> found_;
  std::array<std::uint32_t, kPage + 1> first_;
  std::array<std::uint16_t, 1u << kPairBits> pairs_;
  std::array<std::uint16_t, 1u << kTripleBits> triples_;
  std::array<std::uint16_t, 2 * kPage> before_;
};

}  // namespace ramfold::store::mix
