// SPDX-License-Identifier: GPL-2.0-or-later
// The model: how each step of a page is split into bits, and how likely each bit is. Encoder and
// decoder run the same code, with different Coders. Coder::bit(p, bit) codes a bit whose
// probability of 1 is p, and returns the bit; a decoder ignores its argument `bit` and returns the
// bit that it reads. A Coder with kCodes == false codes nothing; with it the model learns from
// known bits, without its weights. Part of the format (docs/mix-format.md).
// Threads: a Model belongs to one.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/types.hpp"
#include "store/mix/probability.hpp"

namespace ramfold::store::mix {

inline constexpr unsigned kPage = static_cast<unsigned>(kPageSize);
inline constexpr unsigned kLengthMin = 2;
inline constexpr std::size_t kRecent = 4;

// A page, with its reference before it, if it has one.
struct Window {
  const std::uint8_t* page;  // the bytes of the reference end here
  unsigned reference;        // bytes of the reference: 4096 or 0
  // The byte `distance` before `at`; 0 before the beginning of the window.
  unsigned before(unsigned at, unsigned distance) const noexcept {
    return distance <= at + reference ? page[static_cast<std::ptrdiff_t>(at) - distance] : 0;
  }
};

enum class Kind : std::uint8_t { literal = 0, copy = 1, again = 2 };  // again: a recent distance

// The state that the next step depends on: the kinds of the last two steps, and the recent
// distances.
struct State {
  unsigned kinds = 0;
  std::array<unsigned, kRecent> recent;

  State() = default;
  explicit constexpr State(unsigned reference) noexcept
      : recent(reference != 0 ? std::array<unsigned, kRecent>{kPage, 8, 4, 16}
                              : std::array<unsigned, kRecent>{8, 4, 16, 1}) {}
  unsigned last() const noexcept { return kinds % 3; }
  void literal() noexcept { kinds = kinds * 3 % 9; }
  void copy(unsigned distance) noexcept {
    recent = {distance, recent[0], recent[1], recent[2]};
    kinds = (kinds * 3 + static_cast<unsigned>(Kind::copy)) % 9;
  }
  void again(unsigned which) noexcept {
    const unsigned distance = recent[which];
    for (; which > 0; --which) recent[which] = recent[which - 1];
    recent[0] = distance;
    kinds = (kinds * 3 + static_cast<unsigned>(Kind::again)) % 9;
  }
};

// The slot of a number: its count of bits, and its upper two bits. The slots are 0, 1, 2, 3, 4-5,
// 6-7, 8-11, ...
constexpr unsigned slot_of(unsigned n) noexcept {
  if (n < 4) return n;
  const auto width = static_cast<unsigned>(std::bit_width(n)) - 1;
  return width * 2 + (n >> (width - 1) & 1);
}
// The number of bits that follow a slot, and the first number of the slot.
constexpr unsigned extra_bits(unsigned slot) noexcept { return slot < 4 ? 0 : slot / 2 - 1; }
constexpr unsigned slot_base(unsigned slot) noexcept {
  return slot < 4 ? slot : (2 | (slot & 1)) << extra_bits(slot);
}

class Model {
 public:
  // Each function codes one part of a step and returns it; a decoder ignores `value`.
  template <class Coder>
  unsigned literal(Coder& coder, const Window& window, const State& state, unsigned at,
                   unsigned value) noexcept;
  template <class Coder>
  Kind kind(Coder& coder, const State& state, unsigned at, Kind value) noexcept;
  // The index of a recent distance.
  template <class Coder>
  unsigned which(Coder& coder, const State& state, unsigned value) noexcept;
  template <class Coder>
  unsigned length(Coder& coder, Kind kind, unsigned value) noexcept;
  template <class Coder>
  unsigned distance(Coder& coder, unsigned length, unsigned value) noexcept;

 private:
  static constexpr unsigned kLower = 3;
  static constexpr unsigned kInputs = 5;
  static constexpr unsigned kNibble = 16;
  static constexpr unsigned kSlotsBits = 10;
  static constexpr unsigned kSlots =
      1u << kSlotsBits;                     // 15 decisions each, by context and the bits so far
  static constexpr unsigned kSlotBits = 5;  // a slot of a length or distance

  using Tree = std::array<Bit, 1u << kSlotBits>;
  using Nibbles = std::array<std::array<Bit, kNibble>, kSlots>;
  struct Weights {
    std::array<std::int32_t, kInputs> of;
    constexpr Weights() noexcept { of.fill(kWeight); }
    static constexpr std::int32_t kWeight = 18350;  // 0.28, in 1/65536
  };

  template <class Coder>
  static unsigned take(Coder& coder, Bit& bit, unsigned value) noexcept {
    const unsigned got = coder.bit(bit.p(), value);
    bit.learn(static_cast<int>(got));
    return got;
  }
  // Codes `count` bits of value, the highest first.
  template <class Coder>
  static unsigned tree(Coder& coder, Bit* bits, unsigned count, unsigned value) noexcept {
    unsigned node = 1;
    for (unsigned i = count; i-- > 0;) node = node << 1 | take(coder, bits[node], value >> i & 1);
    return node - (1u << count);
  }
  // The same, the lowest bit first.
  template <class Coder>
  static unsigned tree_up(Coder& coder, Bit* bits, unsigned count, unsigned value) noexcept {
    unsigned node = 1;
    unsigned got = 0;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned bit = take(coder, bits[node], value >> i & 1);
      node = node << 1 | bit;
      got |= bit << i;
    }
    return got;
  }
  template <class Coder>
  static unsigned plain(Coder& coder, unsigned count, unsigned value) noexcept {
    unsigned got = 0;
    for (unsigned i = count; i-- > 0;) got = got << 1 | coder.bit(kOne / 2, value >> i & 1);
    return got;
  }
  static unsigned nibble_at(unsigned context, unsigned upper) noexcept {
    return ((context + 1) * 0x9e37'79b1u + upper * 0x85eb'ca6bu) >> (32 - kSlotsBits);
  }
  // Codes a bit. Its probability is mixed from the opinions of several contexts; the weight of each
  // opinion is the mean of its weights in two sets. Then the sets and the contexts learn.
  template <class Coder>
  static unsigned mixed(Coder& coder, const std::array<Bit*, kInputs>& bits, Weights& weights,
                        Weights& others, unsigned value) noexcept {
    if constexpr (!Coder::kCodes) {
      for (Bit* const one : bits) one->learn(static_cast<int>(value));
      return value;
    }
    std::array<int, kInputs> opinions;
    std::int64_t sum = 0;  // whatever the bytes, weights stay below 2^30
#pragma GCC unroll 4
    for (unsigned k = 0; k < kInputs; ++k) {
      opinions[k] = bits[k]->is_new() ? 0 : stretch(bits[k]->p());
      sum += opinions[k] * ((std::int64_t{weights.of[k]} + others.of[k]) >> 5);
    }
    const int p =
        squash(static_cast<int>(std::clamp<std::int64_t>(sum >> 12, -kStretchMax, kStretchMax)));
    const unsigned bit = coder.bit(p, value);
    const int error = (bit != 0 ? kOne - 1 : 0) - p;
#pragma GCC unroll 4
    for (unsigned k = 0; k < kInputs; ++k) {
      const int step = opinions[k] * error >> 8;
      weights.of[k] += step;
      others.of[k] += step;
      bits[k]->learn(static_cast<int>(bit));
    }
    return bit;
  }

  // Contexts of literals: the place in a word of 8 bytes; the bytes 1, 2 and 4 before; and the byte
  // at the latest distance, with separate entries for a literal directly behind a copy, because
  // that literal differs from this byte.
  std::array<std::array<Bit, 256>, 8> by_place_;
  std::array<Nibbles, kInputs - 1> by_byte_;
  std::array<std::array<Weights, 256>, 3> weights_;  // by the last step and the bits so far
  std::array<Weights, 256> weights_by_byte_;         // by the byte before

  std::array<std::array<Bit, 8>, 9> is_copy_;
  std::array<Bit, 3> is_again_;
  std::array<std::array<Bit, 3>, 3> which_;
  struct Lengths {
    Bit beyond_low, beyond_middle;
    std::array<Bit, 8> low, middle;
    Tree slot;
  };
  std::array<Lengths, 2> lengths_;
  std::array<Tree, 4> distance_slot_;
  std::array<std::array<Bit, 8>, 32> distance_upper_;
  std::array<std::array<Bit, 8>, 32> distance_few_;
  std::array<Bit, 8> distance_lower_;
};

template <class Coder>
unsigned Model::literal(Coder& coder, const Window& window, const State& state, unsigned at,
                        unsigned value) noexcept {
  const unsigned last = state.last();
  const std::array<unsigned, kInputs - 1> contexts{
      window.before(at, 1), window.before(at, 2), window.before(at, 4),
      window.before(at, state.recent[0]) | (last == 0 ? 0x100u : 0u)};
  Bit* const place = by_place_[at & 7].data();
  Weights& of_byte = weights_by_byte_[contexts[0]];
  unsigned node = 1;  // a 1, then the bits so far
  for (unsigned half = 0; half < 2; ++half) {
    std::array<Bit*, kInputs> bits{};
    for (unsigned c = 0; c < contexts.size(); ++c)
      bits[c + 1] = by_byte_[c][nibble_at(contexts[c], half == 0 ? 0 : node)].data();
    const std::array<Bit*, kInputs> nibbles = bits;
    unsigned within = 1;
    for (unsigned i = 0; i < 4; ++i) {
      bits[0] = place + node;
      for (unsigned c = 1; c < kInputs; ++c) bits[c] = nibbles[c] + within;
      const unsigned shift = 7 - 4 * half - i;
      const unsigned bit = mixed(coder, bits, weights_[last][node], of_byte, value >> shift & 1);
      node = node << 1 | bit;
      within = within << 1 | bit;
    }
  }
  return node & 0xff;
}

template <class Coder>
Kind Model::kind(Coder& coder, const State& state, unsigned at, Kind value) noexcept {
  if (take(coder, is_copy_[state.kinds][at & 7], value != Kind::literal) == 0) return Kind::literal;
  return take(coder, is_again_[state.last()], value == Kind::again) == 0 ? Kind::copy : Kind::again;
}

template <class Coder>
unsigned Model::which(Coder& coder, const State& state, unsigned value) noexcept {
  unsigned got = 0;
  while (got < kRecent - 1 && take(coder, which_[got][state.last()], value > got) != 0) ++got;
  return got;
}

template <class Coder>
unsigned Model::length(Coder& coder, Kind kind, unsigned value) noexcept {
  Lengths& of = lengths_[kind == Kind::copy ? 0 : 1];
  const unsigned n = value - kLengthMin;
  if (take(coder, of.beyond_low, n >= 8) == 0) return kLengthMin + tree(coder, of.low.data(), 3, n);
  if (take(coder, of.beyond_middle, n >= 16) == 0)
    return kLengthMin + 8 + tree(coder, of.middle.data(), 3, n - 8);
  const unsigned slot = tree(coder, of.slot.data(), kSlotBits, slot_of(n - 16));
  const unsigned base = slot_base(slot);
  return kLengthMin + 16 + base + plain(coder, extra_bits(slot), n - 16 - base);
}

template <class Coder>
unsigned Model::distance(Coder& coder, unsigned length, unsigned value) noexcept {
  const unsigned n = value - 1;
  const unsigned slot =
      tree(coder, distance_slot_[std::min(length - kLengthMin, 3u)].data(), kSlotBits, slot_of(n));
  const unsigned extra = extra_bits(slot);
  const unsigned rest = n - slot_base(slot);
  const unsigned lower = std::min(extra, kLower);
  const unsigned upper = std::min(extra - lower, kLower);
  const unsigned middle = extra - lower - upper;
  unsigned got = tree(coder, distance_upper_[slot].data(), upper, rest >> (lower + middle));
  got = got << middle | plain(coder, middle, rest >> lower & ((1u << middle) - 1));
  Bit* const bits = lower == kLower ? distance_lower_.data() : distance_few_[slot].data();
  got = got << lower | tree_up(coder, bits, lower, rest & ((1u << lower) - 1));
  return 1 + slot_base(slot) + got;
}

}  // namespace ramfold::store::mix
