// SPDX-License-Identifier: GPL-2.0-or-later
// Finds copies for a place of a page: for each length that is found, the nearest one.
// Threads: belongs to one.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "store/mix/steps.hpp"

namespace ramfold::store::mix {

struct Match {
  std::uint16_t length;
  std::uint16_t distance;
};

class Matches {
 public:
  void begin(const Window& window) noexcept {
    window_ = window;
    pairs_.fill(0);
    triples_.fill(0);
    begin_ = window.page - window.reference;
    end_ = window.reference + kPage;
    next_ = 0;
    pass(window.reference);
  }
  // The matches at `place`, each longer than the one before. Valid until the next call. REQUIRES:
  // places come in ascending order.
  std::span<const Match> at(unsigned place) noexcept {
    pass(window_.reference + place);
    count_ = 0;
    find(next_);
    return std::span(found_).first(count_);
  }

 private:
  static constexpr unsigned kTries = 24;
  static constexpr unsigned kPairBits = 12;
  static constexpr unsigned kTripleBits = 13;
  // One match for each try, and one for the pair of bytes.
  static constexpr unsigned kMost = kTries + 1;

  static constexpr unsigned hash(unsigned value, unsigned bits) noexcept {
    return value * 0x9e37'79b1u >> (32 - bits);
  }
  static unsigned pair(const std::uint8_t* p) noexcept { return p[0] | unsigned{p[1]} << 8; }
  static unsigned triple(const std::uint8_t* p) noexcept {
    return hash(pair(p) | unsigned{p[2]} << 16, kTripleBits);
  }
  // Enters the places before `place`: from now on they may be copied from.
  void pass(unsigned place) noexcept {
    for (; next_ < place; ++next_) {
      if (end_ - next_ < 3) continue;
      // An entry is a place plus one; 0: none.
      pairs_[hash(pair(begin_ + next_), kPairBits)] = static_cast<std::uint16_t>(next_ + 1);
      std::uint16_t& head = triples_[triple(begin_ + next_)];
      before_[next_] = head;
      head = static_cast<std::uint16_t>(next_ + 1);
    }
  }
  void find(unsigned at) noexcept {
    const unsigned most = end_ - at;
    if (most < 3) return;
    unsigned best = 1;
    const auto consider = [&](unsigned from) {
      const unsigned length = equal_bytes(begin_ + from, begin_ + at, most);
      if (length <= best) return;
      best = length;
      found_[count_++] = {static_cast<std::uint16_t>(length),
                          static_cast<std::uint16_t>(at - from)};
    };
    if (const unsigned from = pairs_[hash(pair(begin_ + at), kPairBits)]; from != 0)
      consider(from - 1);
    unsigned from = triples_[triple(begin_ + at)];
    for (unsigned tries = 0; from != 0 && tries < kTries && best < most; ++tries) {
      const std::uint8_t* const p = begin_ + from - 1;
      if (p[best] == begin_[at + best]) consider(from - 1);
      from = before_[from - 1];
    }
  }

  Window window_{};
  const std::uint8_t* begin_ = nullptr;
  unsigned end_ = 0;
  unsigned next_ = 0;
  unsigned count_ = 0;
  std::array<Match, kMost> found_;
  std::array<std::uint16_t, 1u << kPairBits> pairs_;
  std::array<std::uint16_t, 1u << kTripleBits> triples_;
  std::array<std::uint16_t, 2 * kPage> before_;
};

}  // namespace ramfold::store::mix
