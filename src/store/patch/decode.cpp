// SPDX-License-Identifier: GPL-2.0-or-later
// The output begins as a copy of the reference. So a copy of the bytes at the same offset, by far
// the most frequent step, moves no byte. Every write has exact bounds, because the bytes behind it
// must still be the reference's.
#include <array>
#include <bit>
#include <cstring>

#include "store/patch/format.hpp"
#include "store/patch/patch.hpp"

namespace ramfold::store::patch {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Copies exactly `length` bytes; source and target do not overlap. Up to 32 bytes are copied by two
// moves, which may overlap each other.
[[gnu::always_inline]] inline void move_exact(std::byte* to, const std::byte* from,
                                              unsigned length) noexcept {
  struct Two {
    std::uint64_t a, b;
  };
  const auto ends = [&]<typename T>(T first, T last) {
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + length - sizeof last, &last, sizeof last);
  };
  if (length > 32) {
    std::memcpy(to, from, length);
  } else if (length >= 16) {
    ends(load<Two>(from), load<Two>(from + length - 16));
  } else if (length >= 8) {
    ends(load<std::uint64_t>(from), load<std::uint64_t>(from + length - 8));
  } else if (length >= 4) {
    ends(load<std::uint32_t>(from), load<std::uint32_t>(from + length - 4));
  } else if (length >= 2) {
    ends(load<std::uint16_t>(from), load<std::uint16_t>(from + length - 2));
  } else if (length == 1) {
    *to = *from;
  }
}

// For each first byte of a short fix: the amount, and the length of the copy before it.
struct ShortFix {
  std::uint8_t which, length;
};
constexpr auto kByFirstByte = [] {
  std::array<ShortFix, kFixLong> fixes{};
  for (std::uint8_t which = 0; which < kAmountsMax; ++which) {
    for (unsigned op = kShortFixes[which]; op < kShortFixes[which + 1]; ++op) {
      fixes[op] = {which, static_cast<std::uint8_t>(op - kShortFixes[which])};
    }
  }
  return fixes;
}();

class Decoder {
 public:
  Decoder(std::span<const std::byte> patch, const std::byte* reference, std::byte* out) noexcept
      : in_(patch.data()), end_(in_ + patch.size()), reference_(reference), out_(out) {}

  bool run() noexcept {
    std::memcpy(out_, reference_, kPage);
    while (in_ != end_) {
      if (!step(std::to_integer<unsigned>(*in_++))) return false;
    }
    return copy(kPage - at_);
  }

 private:
  [[gnu::always_inline]] bool step(unsigned op) noexcept {
    unsigned number = 0;
    if (op < kFixLong) return fix(kByFirstByte[op].which, kByFirstByte[op].length);
    if (op < kRepeat) return take_number(number) && fix(op - kFixLong, number);
    if (op < kNewSmall) return counted(op - kRepeat, 7, 2, number) && repeat(number);
    if (op < kNewWide) {
      const unsigned width = (op - kNewSmall) / 8 + 1;
      return counted((op - kNewSmall) % 8, 7, 0, number) && fix_by_new(width, number);
    }
    if (op < kLiteral) return take_number(number) && fix_by_new(op - kNewWide + 5, number);
    if (op < kCopy) return counted(op - kLiteral, 11, 1, number) && literal(number);
    if (op < kCopyNear) return counted(op - kCopy, 11, 1, number) && copy(number);
    if (op < kCopyFar) {
      if (in_ == end_) return false;
      const unsigned distance = std::to_integer<unsigned>(*in_++) + 1;
      return counted(op - kCopyNear, 7, kNearLengthMin, number) && copy_from(distance, number);
    }
    if (end_ - in_ < 2) return false;
    const unsigned bits = load<std::uint16_t>(in_);
    in_ += 2;
    const unsigned length = (op - kCopyFar) << 3 | bits >> 13;
    return counted(length, kFarLengthLong, kFarLengthMin, number) &&
           copy_from(bits & 0x1fff, number);
  }

  [[gnu::always_inline]] bool take_number(unsigned& number) noexcept {
    if (in_ == end_) return false;
    const unsigned first = std::to_integer<unsigned>(*in_++);
    if (first < kNumberShort) {
      number = first;
      return true;
    }
    if (in_ == end_) return false;
    number = kNumberShort + ((first - kNumberShort) << 8 | std::to_integer<unsigned>(*in_++));
    return true;
  }

  // Reads a count: least + stored; when stored == go_on, a number follows, and is added.
  [[gnu::always_inline]] bool counted(unsigned stored, unsigned go_on, unsigned least,
                                      unsigned& count) noexcept {
    if (stored < go_on) {
      count = least + stored;
      return true;
    }
    if (!take_number(count)) return false;
    count += least + go_on;
    return true;
  }

  bool literal(unsigned length) noexcept {
    if (length > static_cast<std::size_t>(end_ - in_) || length > kPage - at_) return false;
    move_exact(out_ + at_, in_, length);
    in_ += length;
    at_ += length;
    return true;
  }

  bool copy_from(unsigned distance, unsigned length) noexcept {
    if (distance == 0 || distance > at_ + kPage) return false;
    distance_ = distance;
    return copy(length);
  }

  // Copies the next bytes from the current distance.
  [[gnu::always_inline]] bool copy(unsigned length) noexcept {
    if (length > kPage - at_) return false;
    if (distance_ != kStartDistance) {
      if (!copy_elsewhere(length)) return false;
    }
    at_ += length;
    return true;
  }

  bool copy_elsewhere(unsigned length) noexcept {
    if (distance_ > at_) {
      const unsigned from = at_ + kPage - distance_;
      if (length > kPage - from) return false;  // a copy from the reference ends within it
      move_exact(out_ + at_, reference_ + from, length);
      return true;
    }
    std::byte* to = out_ + at_;
    unsigned distance = distance_;
    while (length > distance) {  // bytes that repeat at a distance also repeat at its multiples
      move_exact(to, to - distance, distance);
      to += distance;
      length -= distance;
      distance *= 2;
    }
    move_exact(to, to - distance, length);
    return true;
  }

  // A copy, then a field to which an amount is added.
  [[gnu::always_inline]] bool fix(unsigned which, unsigned length) noexcept {
    const unsigned shift = 4 * which;
    const unsigned place = order_ >> shift & 0xf;
    const unsigned later = order_ & ((1u << shift) - 1);
    order_ = (order_ >> shift >> 4 << shift << 4) | later << 4 | place;
    return amounts_[place].width != 0 && copy_and_add(amounts_[place], length);
  }

  bool repeat(unsigned count) noexcept {
    const Amount amount = amounts_[order_ & 0xf];
    if (amount.width == 0) return false;
    for (; count != 0; --count) {
      if (!copy_and_add(amount, last_length_)) return false;  // bounded: each advances at_
    }
    return true;
  }

  bool fix_by_new(unsigned width, unsigned length) noexcept {
    if (static_cast<std::size_t>(end_ - in_) < width) return false;
    Amount amount{0, field_mask(width), width};
    if (end_ - in_ >= static_cast<std::ptrdiff_t>(kFieldMax)) {
      amount.value = load<std::uint64_t>(in_) & amount.mask;
    } else {
      std::memcpy(&amount.value, in_, width);
    }
    in_ += width;
    const unsigned oldest = order_ >> 4 * (kAmountsMax - 1);
    order_ = (order_ << 4 & 0xffff) | oldest;
    amounts_[oldest] = amount;
    return copy_and_add(amount, length);
  }

  [[gnu::always_inline]] bool copy_and_add(const Amount& amount, unsigned length) noexcept {
    if (length + amount.width > kPage - at_ || !copy(length)) return false;
    last_length_ = length;
    const std::byte* from = reference_ + at_;
    if (distance_ != kStartDistance) {
      if (distance_ <= at_) {
        if (distance_ < amount.width) return false;  // the field would be its own source
        from = out_ + (at_ - distance_);
      } else {
        from = reference_ + (at_ + kPage - distance_);
        if (at_ + amount.width > distance_) return false;  // beyond the end of the reference
        if (at_ + kFieldMax > distance_) return add_bytes(amount, from);
      }
    }
    if (at_ + kFieldMax > kPage) return add_bytes(amount, from);
    const std::uint64_t sum = load<std::uint64_t>(from) + amount.value;
    const std::uint64_t rest = load<std::uint64_t>(reference_ + at_);  // bytes behind the field
    const std::uint64_t field = rest ^ ((sum ^ rest) & amount.mask);
    std::memcpy(out_ + at_, &field, sizeof field);
    at_ += amount.width;
    return true;
  }

  // Near the end of a page, where a load of eight bytes would reach beyond it.
  bool add_bytes(const Amount& amount, const std::byte* from) noexcept {
    std::uint64_t field = 0;
    std::memcpy(&field, from, amount.width);
    field += amount.value;
    std::memcpy(out_ + at_, &field, amount.width);
    at_ += amount.width;
    return true;
  }

  const std::byte* in_;
  const std::byte* end_;
  const std::byte* reference_;
  std::byte* out_;
  unsigned at_ = 0;
  unsigned distance_ = kStartDistance;
  unsigned last_length_ = 0;
  // Indexes into `amounts_`, four bits each, the latest in the lowest bits. So to bring an amount
  // to the front moves no amount and takes no branch.
  unsigned order_ = 0x3210;
  Amount amounts_[kAmountsMax] = {};
};

}  // namespace

bool decode(std::span<const std::byte> patch, const std::byte* reference, std::byte* out) noexcept {
  return Decoder(patch, reference, out).run();
}

}  // namespace ramfold::store::patch
