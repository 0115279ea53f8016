// SPDX-License-Identifier: GPL-2.0-or-later
// A page is a sequence of steps, each a literal or a copy of bytes that came before.
// Threads: values.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "store/mix/model.hpp"

namespace ramfold::store::mix {

struct Step {
  std::uint16_t length = 0;
  std::uint16_t distance = 0;  // copy: the distance; again: the index of a recent distance
  Kind kind = Kind::literal;
};

inline State after(State state, Step step) noexcept {
  switch (step.kind) {
    case Kind::literal: state.literal(); break;
    case Kind::copy: state.copy(step.distance); break;
    case Kind::again: state.again(step.distance); break;
  }
  return state;
}

// Codes a known step at `at`: for the encoder, and for the primer.
template <class Coder>
void take(Coder& coder, Model& model, const Window& window, const State& state, unsigned at,
          Step step) noexcept {
  model.kind(coder, state, at, step.kind);
  switch (step.kind) {
    case Kind::literal: model.literal(coder, window, state, at, window.page[at]); break;
    case Kind::copy:
      model.length(coder, step.kind, step.length);
      model.distance(coder, step.length, step.distance);
      break;
    case Kind::again:
      model.which(coder, state, step.distance);
      model.length(coder, step.kind, step.length);
      break;
  }
}

// How many bytes are equal from the beginning, up to `most`.
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

}  // namespace ramfold::store::mix
