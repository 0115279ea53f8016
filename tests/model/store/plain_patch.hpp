// SPDX-License-Identifier: GPL-2.0-or-later
// docs/patch-format.md read byte by byte, without any thought of speed: what the real decoder is
// compared with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/page_copy.hpp"

namespace ramfold::store::test {

class PlainPatchReader {
 public:
  using Bytes = std::vector<std::uint8_t>;

  // The page, or nothing when this is not a patch.
  static std::optional<Bytes> read(std::span<const std::byte> patch, const PageCopy& reference) {
    PlainPatchReader reader(patch, reference);
    while (reader.ok_ && reader.next_ < patch.size()) reader.step(reader.byte());
    if (reader.ok_) reader.copy(2 * kPageSize - reader.window_.size());
    if (!reader.ok_) return std::nullopt;
    return Bytes(reader.window_.begin() + kPageSize, reader.window_.end());
  }

 private:
  struct Amount {
    std::size_t width;
    std::uint64_t value;
  };

  PlainPatchReader(std::span<const std::byte> patch, const PageCopy& reference) : patch_(patch) {
    for (const std::byte byte : reference.bytes)
      window_.push_back(std::to_integer<std::uint8_t>(byte));
  }

  std::uint8_t byte() {
    if (next_ >= patch_.size()) {
      ok_ = false;
      return 0;
    }
    return std::to_integer<std::uint8_t>(patch_[next_++]);
  }
  std::size_t number() {
    const std::size_t first = byte();
    return first < 192 ? first : 192 + (first - 192) * 256 + byte();
  }
  // `stored` counts from `least`; the largest, `most`, says that a number is added to it.
  std::size_t count(std::size_t stored, std::size_t most, std::size_t least) {
    return stored < most ? least + stored : least + most + number();
  }

  void step(std::size_t op) {
    if (op <= 0x7f) {
      fix(0, op);
    } else if (op <= 0x8f) {
      fix(1, op - 0x80);
    } else if (op <= 0x97) {
      fix(2, op - 0x90);
    } else if (op <= 0x9f) {
      fix(3, op - 0x98);
    } else if (op <= 0xa3) {
      fix(op - 0xa0, number());
    } else if (op <= 0xab) {
      const std::size_t times = count(op - 0xa4, 7, 2);
      for (std::size_t i = 0; ok_ && i < times; ++i) fix(0, last_length_);
    } else if (op <= 0xcb) {
      fix_by_new((op - 0xac) / 8 + 1, count((op - 0xac) % 8, 7, 0));
    } else if (op <= 0xcf) {
      fix_by_new(op - 0xcc + 5, number());
    } else if (op <= 0xdb) {
      literal(count(op - 0xd0, 11, 1));
    } else if (op <= 0xe7) {
      copy(count(op - 0xdc, 11, 1));
    } else if (op <= 0xef) {
      const std::size_t distance = byte() + std::size_t{1};
      copy_from(distance, count(op - 0xe8, 7, 3));
    } else {
      const std::size_t low = byte();
      const std::size_t bits = low | std::size_t{byte()} << 8;
      copy_from(bits & 0x1fff, count((op - 0xf0) * 8 + (bits >> 13), 127, 4));
    }
  }

  void append(std::uint8_t value) {
    if (window_.size() == 2 * kPageSize) {
      ok_ = false;
    } else if (ok_) {
      window_.push_back(value);
    }
  }
  void literal(std::size_t length) {
    for (std::size_t i = 0; ok_ && i < length; ++i) append(byte());
  }
  // Where `length` bytes that are copied begin; a copy from the reference must end in it.
  std::size_t source(std::size_t length) {
    const std::size_t from = window_.size() - distance_;
    if (length != 0 && from < kPageSize && from + length > kPageSize) ok_ = false;
    return from;
  }
  void copy(std::size_t length) {
    std::size_t from = source(length);
    for (std::size_t i = 0; ok_ && i < length; ++i) append(window_[from++]);
  }
  void copy_from(std::size_t distance, std::size_t length) {
    if (!ok_ || distance == 0 || distance > window_.size()) {
      ok_ = false;
      return;
    }
    distance_ = distance;
    copy(length);
  }
  void fix(std::size_t which, std::size_t length) {
    if (which >= amounts_.size()) ok_ = false;
    if (!ok_) return;
    std::rotate(amounts_.begin(), amounts_.begin() + static_cast<std::ptrdiff_t>(which),
                amounts_.begin() + static_cast<std::ptrdiff_t>(which) + 1);
    copy(length);
    last_length_ = length;
    if (ok_ && distance_ < amounts_[0].width) ok_ = false;
    const std::size_t from = source(amounts_[0].width);
    std::uint64_t carry = 0;
    for (std::size_t i = 0; ok_ && i < amounts_[0].width; ++i) {
      carry += window_[from + i] + (amounts_[0].value >> 8 * i & 0xff);
      append(static_cast<std::uint8_t>(carry));
      carry >>= 8;
    }
  }
  void fix_by_new(std::size_t width, std::size_t length) {
    Amount amount{width, 0};
    for (std::size_t i = 0; i < width; ++i) amount.value |= std::uint64_t{byte()} << 8 * i;
    amounts_.insert(amounts_.begin(), amount);
    if (amounts_.size() > 4) amounts_.pop_back();
    fix(0, length);
  }

  std::span<const std::byte> patch_;
  std::size_t next_ = 0;
  Bytes window_;  // the reference, then the page as far as it is known
  std::size_t distance_ = kPageSize;
  std::size_t last_length_ = 0;
  std::vector<Amount> amounts_;  // latest first
  bool ok_ = true;
};

}  // namespace ramfold::store::test
