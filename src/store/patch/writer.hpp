// SPDX-License-Identifier: GPL-2.0-or-later
// Writes the steps of a patch, each in its shortest encoding. It tracks the state that the decoder
// will have: the amounts in their order, and the length of the copy of the last fix.
// Threads: one writer for each patch.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.hpp"
#include "store/patch/format.hpp"

namespace ramfold::store::patch {

class Writer {
 public:
  explicit Writer(std::span<std::byte> out) noexcept
      : begin_(out.data()), at_(out.data()), end_(out.data() + out.size()) {}

  // The amounts, the latest first.
  const Amount& amount(unsigned which) const noexcept { return amounts_[which]; }
  // The first amount that changes the field `from` into `to`; kAmountsMax when none does. Tests all
  // amounts without a branch, because a branch would often be mispredicted.
  unsigned find_amount(std::uint64_t from, std::uint64_t to) const noexcept {
    unsigned fits = 1u << kAmountsMax;
    for (unsigned which = 0; which < kAmountsMax; ++which) {
      const Amount& amount = amounts_[which];
      const bool fit = (((from + amount.value) ^ to) & amount.mask) == 0;
      fits |= unsigned{fit && amount.width != 0} << which;
    }
    return static_cast<unsigned>(std::countr_zero(fits));
  }

  void literal(const std::byte* bytes, unsigned length) noexcept {
    flush_repeats();
    counted(kLiteral, length - 1, 11);
    append(bytes, length);
  }
  void copy(unsigned length) noexcept {
    flush_repeats();
    counted(kCopy, length - 1, 11);
  }
  void copy_from(unsigned distance, unsigned length) noexcept {
    flush_repeats();
    if (is_near(distance, length)) {
      const unsigned stored = length - kNearLengthMin;
      put(kCopyNear + (stored < 7 ? stored : 7));
      put(distance - 1);
      if (stored >= 7) number(stored - 7);
      return;
    }
    const unsigned stored = length - kFarLengthMin;
    const unsigned bits = stored < kFarLengthLong ? stored : kFarLengthLong;
    put(kCopyFar + (bits >> 3));
    put(distance & 0xff);
    put(distance >> 8 | (bits & 7) << 5);
    if (stored >= kFarLengthLong) number(stored - kFarLengthLong);
  }
  // A copy of `length` bytes, then a field with amount `which`.
  void fix(unsigned which, unsigned length) noexcept {
    if (which == 0 && length == last_length_) {
      ++repeats_;
      return;
    }
    flush_repeats();
    single_fix(which, length);
    const Amount used = amounts_[which];
    for (unsigned i = which; i != 0; --i) amounts_[i] = amounts_[i - 1];
    amounts_[0] = used;
    last_length_ = length;
  }
  void fix_by_new(const Amount& amount, unsigned length) noexcept {
    flush_repeats();
    if (amount.width <= 4) {
      counted(kNewSmall + 8 * (amount.width - 1), length, 7);
    } else {
      put(kNewWide + amount.width - 5);
      number(length);
    }
    std::byte bytes[sizeof amount.value];
    std::memcpy(bytes, &amount.value, sizeof bytes);
    append(bytes, amount.width);
    for (unsigned i = kAmountsMax - 1; i != 0; --i) amounts_[i] = amounts_[i - 1];
    amounts_[0] = amount;
    last_length_ = length;
  }

  // Returns the bytes written; 0 when they did not fit.
  std::uint32_t finish() noexcept {
    flush_repeats();
    return full_ ? 0 : static_cast<std::uint32_t>(at_ - begin_);
  }
  bool is_empty() const noexcept { return at_ == begin_ && repeats_ == 0; }
  bool is_full() const noexcept { return full_; }

  static bool is_near(unsigned distance, unsigned length) noexcept {
    return distance <= kNearDistanceMax && length >= kNearLengthMin;
  }

 private:
  void put(unsigned byte) noexcept {
    if (at_ == end_) {
      full_ = true;
    } else {
      *at_++ = static_cast<std::byte>(byte);
    }
  }
  void append(const std::byte* bytes, unsigned length) noexcept {
    if (static_cast<std::size_t>(end_ - at_) < length) {
      full_ = true;
    } else {
      std::memcpy(at_, bytes, length);
      at_ += length;
    }
  }
  void number(unsigned value) noexcept {
    if (value < kNumberShort) {
      put(value);
    } else {
      put(kNumberShort + ((value - kNumberShort) >> 8));
      put((value - kNumberShort) & 0xff);
    }
  }
  void counted(unsigned op, unsigned stored, unsigned go_on) noexcept {
    put(op + (stored < go_on ? stored : go_on));
    if (stored >= go_on) number(stored - go_on);
  }
  void single_fix(unsigned which, unsigned length) noexcept {
    DENSURE(which < kAmountsMax && amounts_[which].width != 0);
    if (kShortFixes[which] + length < kShortFixes[which + 1]) {
      put(kShortFixes[which] + length);
    } else {
      put(kFixLong + which);
      number(length);
    }
  }
  void flush_repeats() noexcept {
    if (repeats_ == 1) {
      single_fix(0, last_length_);
    } else if (repeats_ > 1) {
      counted(kRepeat, repeats_ - 2, 7);
    }
    repeats_ = 0;
  }

  std::byte* begin_;
  std::byte* at_;
  std::byte* end_;
  Amount amounts_[kAmountsMax] = {};
  unsigned last_length_ = ~0u;
  unsigned repeats_ = 0;
  bool full_ = false;
};

}  // namespace ramfold::store::patch
