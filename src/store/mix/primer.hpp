// SPDX-License-Identifier: GPL-2.0-or-later
// Teaches a model the reference before the page. It splits the reference into steps by a fixed
// rule, so that the decoder finds the same steps as the encoder. Part of the format.
// Threads: belongs to one.
#pragma once

#include <array>
#include <cstdint>

#include "store/mix/steps.hpp"

namespace ramfold::store::mix {

class Primer {
 public:
  // REQUIRES: `model` is new; `reference` is a page.
  void teach(Model& model, const std::uint8_t* reference) noexcept {
    const Window window{reference, 0};
    latest_.fill(0);
    State state(0u);
    Listener listener;
    for (unsigned at = 0; at < kPage;) {
      const Step step = step_at(reference, state, at);
      take(listener, model, window, state, at, step);
      state = after(state, step);
      for (const unsigned end = at + step.length; at < end; ++at) note(reference, at);
    }
  }

 private:
  static constexpr unsigned kPlaceBits = 12;
  static constexpr unsigned kCopyMin = 4;

  struct Listener {
    static constexpr bool kCodes = false;
    static unsigned bit(int, unsigned bit) noexcept { return bit; }
  };

  static unsigned hash(const std::uint8_t* p) noexcept {
    std::uint32_t word = 0;
    std::memcpy(&word, p, kCopyMin);  // the lowest byte first, as on x86
    return word * 0x9e37'79b1u >> (32 - kPlaceBits);
  }
  void note(const std::uint8_t* page, unsigned at) noexcept {
    // An entry is a place plus one; 0: none.
    if (at + kCopyMin <= kPage) latest_[hash(page + at)] = static_cast<std::uint16_t>(at + 1);
  }
  // The longest copy at a recent distance; or the copy from the latest place with the same hash of
  // four bytes, if that is longer by at least two bytes.
  Step step_at(const std::uint8_t* page, const State& state, unsigned at) const noexcept {
    Step best{1, 0, Kind::literal};
    unsigned longest = 0;
    for (unsigned i = 0; i < kRecent; ++i) {
      const unsigned distance = state.recent[i];
      if (distance > at) continue;
      const unsigned length = equal_bytes(page + at - distance, page + at, kPage - at);
      if (length <= longest || length < (i == 0 ? kLengthMin : kLengthMin + 1)) continue;
      longest = length;
      best = {static_cast<std::uint16_t>(length), static_cast<std::uint16_t>(i), Kind::again};
    }
    if (at + kCopyMin > kPage) return best;
    const unsigned from = latest_[hash(page + at)];
    if (from == 0) return best;
    const unsigned length = equal_bytes(page + from - 1, page + at, kPage - at);
    if (length < kCopyMin || length <= longest + 1) return best;
    return {static_cast<std::uint16_t>(length), static_cast<std::uint16_t>(at - (from - 1)),
            Kind::copy};
  }

  std::array<std::uint16_t, 1u << kPlaceBits> latest_;
};

}  // namespace ramfold::store::mix
