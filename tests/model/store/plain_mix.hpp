// SPDX-License-Identifier: GPL-2.0-or-later
// docs/mix-format.md read as it stands, without any thought of speed: what the real decoder is
// compared with. The tables come from the C library's exp(), rounded as the text says.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
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
    PlainMixReader reader(bytes);
    if (reference != nullptr) reader.be_taught(*reference);
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

  explicit PlainMixReader(std::span<const std::byte> bytes) : in_(bytes) {
    for (int i = 0; i < 4; ++i) code_ = code_ * 256 + next();
  }

  // Section 4: every bit is known, so bit() gives back what it is told to.
  void be_taught(const PageCopy& reference) {
    Bytes page;
    for (const std::byte b : reference.bytes) page.push_back(std::to_integer<std::uint8_t>(b));
    std::map<std::uint32_t, std::size_t> latest;
    while (window_.size() < kPageSize) {
      const std::size_t at = window_.size();
      const std::size_t before = at;
      teach_step(page, latest);
      for (std::size_t i = before; i < window_.size(); ++i) {
        if (i + 4 <= kPageSize) latest[hash(page, i)] = i;
      }
    }
    told_.reset();
    begin_ = kPageSize;
    recent_ = {4096, 8, 4, 16};
    kinds_ = 0;
  }
  static std::uint32_t hash(const Bytes& page, std::size_t at) {
    std::uint64_t word = 0;
    for (std::size_t i = 4; i-- > 0;) word = word * 256 + page[at + i];
    return static_cast<std::uint32_t>(word * 0x9e37'79b1u % 0x1'0000'0000u / 0x10'0000);
  }
  static unsigned equal(const Bytes& page, std::size_t from, std::size_t at) {
    unsigned n = 0;
    while (at + n < kPageSize && page[from + n] == page[at + n]) ++n;
    return n;
  }
  // The bits that tell this step, and the step itself, as any other.
  void teach_step(const Bytes& page, const std::map<std::uint32_t, std::size_t>& latest) {
    const std::size_t at = window_.size();
    unsigned length = 0;
    unsigned which = 0;
    for (unsigned i = 0; i < 4; ++i) {
      if (recent_[i] > at) continue;
      const unsigned n = equal(page, at - recent_[i], at);
      if (n < (i == 0 ? 2 : 3) || n <= length) continue;
      length = n;
      which = i;
    }
    std::size_t distance = 0;
    if (at + 4 <= kPageSize) {
      if (const auto found = latest.find(hash(page, at)); found != latest.end()) {
        const unsigned n = equal(page, found->second, at);
        if (n >= 4 && n >= length + 2) {
          length = n;
          distance = at - found->second;
        }
      }
    }
    told_.emplace();
    if (length == 0) {
      tell(0, 1);
      tell(page[at], 8);
    } else if (distance != 0) {
      tell(0b10, 2);
      tell_length(length);
      tell_distance(static_cast<unsigned>(distance));
    } else {
      tell(0b11, 2);
      for (unsigned i = 0; i < which; ++i) tell(1, 1);
      if (which < 3) tell(0, 1);
      tell_length(length);
    }
    step();
  }
  // The upper bits first.
  void tell(unsigned bits, unsigned count) {
    while (count-- > 0) told_->push_back(bits >> count & 1);
  }
  static unsigned slot_of(unsigned n) {
    unsigned slot = 0;
    while (number(slot + 1, 0) <= n) ++slot;
    return slot;
  }
  void tell_length(unsigned length) {
    if (length < 10) return tell(length - 2, 4);  // behind a 0
    if (length < 18) {
      tell(0b10, 2);
      return tell(length - 10, 3);
    }
    const unsigned slot = slot_of(length - 18);
    tell(0b11, 2);
    tell(slot, 5);
    tell(length - 18 - number(slot, 0), extra(slot));
  }
  void tell_distance(unsigned distance) {
    const unsigned slot = slot_of(distance - 1);
    const unsigned bits = distance - 1 - number(slot, 0);
    const unsigned lower = std::min(3u, extra(slot));
    tell(slot, 5);
    tell(bits >> lower, extra(slot) - lower);
    for (unsigned i = 0; i < lower; ++i) tell(bits >> i & 1, 1);
  }

  std::uint64_t next() {
    return place_ < in_.size() ? std::to_integer<std::uint64_t>(in_[place_++]) : 0;
  }
  unsigned bit(std::int64_t p) {
    if (told_) {
      const unsigned told = told_->front();
      told_->pop_front();
      return told;
    }
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
    const std::array<std::uint64_t, 4> contexts{before(1), before(2), before(4),
                                                before(recent_[0]) + (last == 0 ? 256 : 0)};
    unsigned node = 1;
    unsigned after_four = 0;
    for (unsigned i = 0; i < 8; ++i) {
      if (i == 4) after_four = node;
      const unsigned within = i < 4 ? node : (1u << (i - 4)) + node % (1u << (i - 4));
      std::array<Decision*, 5> five{&by_place_[at % 8][node]};
      for (std::size_t c = 0; c < 4; ++c) {
        const std::uint64_t sum = (contexts[c] + 1) * 0x9e37'79b1u + after_four * 0x85eb'ca6bull;
        five[c + 1] = &by_byte_[c][sum % 0x1'0000'0000u / 0x40'0000 * 16 + within];
      }
      auto& weights = weights_[node * 3 + last];
      auto& others = others_[before(1)];
      std::array<std::int64_t, 5> opinions{};
      std::int64_t sum = 0;
      for (std::size_t k = 0; k < 5; ++k) {
        opinions[k] = five[k]->n == 0 ? 0 : stretch(std::max<std::int64_t>(five[k]->p, 1));
        sum += opinions[k] * ((weights[k] + others[k]) >> 5);
      }
      const std::int64_t p = squash(std::clamp<std::int64_t>(sum >> 12, -2047, 2047));
      const unsigned b = bit(p);
      const std::int64_t error = 4095 * std::int64_t{b} - p;
      for (std::size_t k = 0; k < 5; ++k) {
        if (!told_) {
          const std::int64_t step = (opinions[k] * error) >> 8;
          weights[k] += step;
          others[k] += step;
        }
        five[k]->learn(b);
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

  struct Weights : std::array<std::int64_t, 5> {
    Weights() { fill(18350); }
  };

  std::span<const std::byte> in_;
  std::size_t place_ = 0;
  std::uint64_t low_ = 0;
  std::uint64_t high_ = 0xffff'ffff;
  std::uint64_t code_ = 0;
  std::optional<std::deque<unsigned>> told_;  // while it is taught: the bits to come
  Bytes window_;
  std::size_t begin_ = 0;
  std::array<unsigned, 4> recent_{8, 4, 16, 1};
  unsigned kinds_ = 0;
  bool ok_ = true;
  Decisions is_copy_, is_recent_, which_;
  std::map<unsigned, Decisions> length_, low_length_, middle_length_, length_slot_, distance_slot_;
  std::map<unsigned, Decisions> upper_, lower_, by_place_;
  std::map<std::size_t, Decisions> by_byte_;
  std::map<unsigned, Weights> weights_, others_;
};

}  // namespace ramfold::store::test
