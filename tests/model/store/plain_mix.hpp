// SPDX-License-Identifier: GPL-2.0-or-later
// docs/mix-format.md read as it stands, without any thought of speed: what the real decoder is
// compared with. The tables come from the C library's exp(), rounded as the text says.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/page_copy.hpp"

namespace ramfold::store::test {

class PlainMixReader {
 public:
  using Bytes = std::vector<std::uint8_t>;

  // The page, or nothing when this is none.
  static std::optional<Bytes> read(std::span<const std::byte> bytes, const PageCopy* reference) {
    PlainMixReader reader(bytes, reference);
    while (reader.ok_ && reader.window_.size() < reader.begin_ + kPageSize) reader.step();
    if (!reader.ok_) return std::nullopt;
    return Bytes(reader.window_.begin() + static_cast<std::ptrdiff_t>(reader.begin_),
                 reader.window_.end());
  }

 private:
  struct Decision {
    std::int64_t p = 2048;
    std::size_t n = 0;
    void learn(std::int64_t bit) {
      constexpr std::array kRate{410, 300, 230, 184, 154, 131, 115, 102,
                                 91,  83,  76,  70,  65,  61,  57,  50};
      p += ((4095 * bit - p) * kRate[n]) >> 10;
      n = std::min<std::size_t>(n + 1, 15);
    }
  };
  using Decisions = std::map<std::uint64_t, Decision>;  // any number, each new when first used

  PlainMixReader(std::span<const std::byte> bytes, const PageCopy* reference) : in_(bytes) {
    if (reference != nullptr) {
      for (const std::byte b : reference->bytes)
        window_.push_back(std::to_integer<std::uint8_t>(b));
      recent_ = {4096, 8, 4, 16};
    }
    begin_ = window_.size();
    for (int i = 0; i < 4; ++i) code_ = code_ * 256 + next();
  }

  std::uint64_t next() {
    return place_ < in_.size() ? std::to_integer<std::uint64_t>(in_[place_++]) : 0;
  }
  unsigned bit(std::int64_t p) {
    const std::uint64_t middle = low_ + (high_ - low_) / 4096 * static_cast<std::uint64_t>(p);
    const bool is_one = code_ <= middle;
    (is_one ? high_ : low_) = is_one ? middle : middle + 1;
    constexpr std::uint64_t kUpper = 0x0100'0000;
    while (low_ / kUpper == high_ / kUpper) {
      low_ = low_ % kUpper * 256;
      high_ = high_ % kUpper * 256 + 255;
      code_ = code_ % kUpper * 256 + next();
    }
    return is_one ? 1 : 0;
  }
  unsigned take(Decision& decision) {
    const unsigned got = bit(std::max<std::int64_t>(decision.p, 1));
    decision.learn(got);
    return got;
  }
  unsigned tree(Decisions& decisions, unsigned count) {
    unsigned node = 1;
    for (unsigned i = 0; i < count; ++i) node = 2 * node + take(decisions[node]);
    return node - (1u << count);
  }
  unsigned tree_upwards(Decisions& decisions, unsigned count) {
    unsigned node = 1;
    unsigned got = 0;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned b = take(decisions[node]);
      node = 2 * node + b;
      got += b << i;
    }
    return got;
  }
  unsigned plain(unsigned count) {
    unsigned got = 0;
    for (unsigned i = 0; i < count; ++i) got = 2 * got + bit(2048);
    return got;
  }
  static unsigned extra(unsigned slot) { return slot < 4 ? 0 : slot / 2 - 1; }
  static unsigned number(unsigned slot, unsigned bits) {
    return slot < 4 ? slot : ((2 + slot % 2) << extra(slot)) + bits;
  }

  void step() {
    const auto at = static_cast<unsigned>(window_.size() - begin_);
    const unsigned last = kinds_ % 3;
    if (take(is_copy_[kinds_ * 8 + at % 8]) == 0) {
      window_.push_back(literal(at));
      kinds_ = 3 * kinds_ % 9;
      return;
    }
    unsigned length = 0;
    if (take(is_recent_[last]) == 0) {
      length = read_length(0);
      recent_ = {distance(length), recent_[0], recent_[1], recent_[2]};
      kinds_ = (3 * kinds_ + 1) % 9;
    } else {
      unsigned which = 0;
      while (which < 3 && take(which_[which * 3 + last]) == 1) ++which;
      std::rotate(recent_.begin(), recent_.begin() + which, recent_.begin() + which + 1);
      length = read_length(1);
      kinds_ = (3 * kinds_ + 2) % 9;
    }
    if (recent_[0] > window_.size() || at + length > kPageSize) {
      ok_ = false;
      return;
    }
    for (unsigned i = 0; i < length; ++i) window_.push_back(window_[window_.size() - recent_[0]]);
  }
  unsigned read_length(unsigned recent) {
    if (take(length_[recent][0]) == 0) return 2 + tree(low_length_[recent], 3);
    if (take(length_[recent][1]) == 0) return 10 + tree(middle_length_[recent], 3);
    const unsigned slot = tree(length_slot_[recent], 5);
    return 18 + number(slot, plain(extra(slot)));
  }
  unsigned distance(unsigned length) {
    const unsigned slot = tree(distance_slot_[std::min(length - 2, 3u)], 5);
    const unsigned lower = std::min(3u, extra(slot));
    const unsigned upper = std::min(3u, extra(slot) - lower);
    const unsigned between = extra(slot) - lower - upper;
    unsigned bits = tree(upper_[slot], upper);
    bits = (bits << between) + plain(between);
    bits = (bits << lower) + tree_upwards(lower == 3 ? lower_[99] : lower_[slot], lower);
    return 1 + number(slot, bits);
  }

  unsigned before(unsigned distance) const {
    return distance <= window_.size() ? window_[window_.size() - distance] : 0;
  }
  std::uint8_t literal(unsigned at) {
    const unsigned last = kinds_ % 3;
    const std::array<std::uint64_t, 3> contexts{before(1), before(4),
                                                before(recent_[0]) + (last == 0 ? 256 : 0)};
    unsigned node = 1;
    unsigned after_four = 0;
    for (unsigned i = 0; i < 8; ++i) {
      if (i == 4) after_four = node;
      const unsigned within = i < 4 ? node : (1u << (i - 4)) + node % (1u << (i - 4));
      std::array<Decision*, 4> four{&by_place_[at % 8][node]};
      for (std::size_t c = 0; c < 3; ++c) {
        const std::uint64_t sum = (contexts[c] + 1) * 0x9e37'79b1u + after_four * 0x85eb'ca6bull;
        four[c + 1] = &by_byte_[c][sum % 0x1'0000'0000u / 0x40'0000 * 16 + within];
      }
      auto& weights = weights_[i * 3 + last];
      std::array<std::int64_t, 4> opinions{};
      std::int64_t sum = 0;
      for (std::size_t k = 0; k < 4; ++k) {
        opinions[k] = four[k]->n == 0 ? 0 : stretch(std::max<std::int64_t>(four[k]->p, 1));
        sum += opinions[k] * (weights[k] >> 4);
      }
      const std::int64_t p = squash(std::clamp<std::int64_t>(sum >> 12, -2047, 2047));
      const unsigned b = bit(p);
      const std::int64_t error = 4095 * std::int64_t{b} - p;
      for (std::size_t k = 0; k < 4; ++k) {
        weights[k] += (opinions[k] * error * 3) >> 10;
        four[k]->learn(b);
      }
      node = 2 * node + b;
    }
    return static_cast<std::uint8_t>(node % 256);
  }

  static std::int64_t squash_entry(std::int64_t i) {
    const double y = (4.0 * static_cast<double>(i) + 1.5 - 2048) / 256;
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(4096 / (1 + std::exp(-y))), 1, 4095);
  }
  static std::int64_t squash(std::int64_t x) {
    static const std::vector<std::int64_t> table = [] {
      std::vector<std::int64_t> t;
      for (std::int64_t i = 0; i < 1024; ++i) t.push_back(squash_entry(i));
      return t;
    }();
    return table[static_cast<std::size_t>((x + 2048) / 4)];
  }
  static std::int64_t stretch(std::int64_t p) {
    std::int64_t j = 0;
    while (j < 1023 && squash(4 * j - 2048) < p / 4 * 4 + 2) ++j;
    return 4 * j - 2048;
  }

  struct Weights : std::array<std::int64_t, 4> {
    Weights() { fill(22938); }
  };

  std::span<const std::byte> in_;
  std::size_t place_ = 0;
  std::uint64_t low_ = 0;
  std::uint64_t high_ = 0xffff'ffff;
  std::uint64_t code_ = 0;
  Bytes window_;
  std::size_t begin_ = 0;
  std::array<unsigned, 4> recent_{8, 4, 16, 1};
  unsigned kinds_ = 0;
  bool ok_ = true;
  Decisions is_copy_, is_recent_, which_;
  std::map<unsigned, Decisions> length_, low_length_, middle_length_, length_slot_, distance_slot_;
  std::map<unsigned, Decisions> upper_, lower_, by_place_;
  std::map<std::size_t, Decisions> by_byte_;
  std::map<unsigned, Weights> weights_;
};

}  // namespace ramfold::store::test
