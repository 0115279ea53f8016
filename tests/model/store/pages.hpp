// SPDX-License-Identifier: GPL-2.0-or-later
// Pages for tests of the store: every kind is a function of a number, so that any page can be made
// again and compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::store::test {

inline std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// `random_bytes` of noise, then a pattern that compresses to almost nothing.
inline PageCopy page_of(std::uint64_t number, std::size_t random_bytes) noexcept {
  PageCopy page;
  std::uint64_t words[kPageSize / 8];
  for (std::size_t i = 0; i < kPageSize / 8; ++i) {
    words[i] = i * 8 < random_bytes ? mix(number * 512 + i) : 0x0101010101010101u;
  }
  words[0] = mix(number) | 1;
  std::memcpy(page.bytes.data(), words, kPageSize);
  return page;
}
// The mixture of sizes that guests have, roughly: an eighth raw, the rest from some bytes upwards.
inline PageCopy page_of(std::uint64_t number) noexcept {
  return page_of(number, mix(number ^ 0x55) % (kPageSize + kPageSize / 8));
}

// A page as programs have it: records of a few fields, some of them alike.
inline PageCopy records_of(std::uint64_t number) noexcept {
  PageCopy page;
  std::uint64_t address = 0x7f12'3456'7000;
  for (std::size_t at = 0; at < kPageSize; at += 32) {
    const std::uint64_t length = mix(number ^ at) % 400;
    const std::uint64_t id = at / 32 * 3;
    address += length * 16;
    std::memcpy(&page.bytes[at], &address, 8);
    std::memcpy(&page.bytes[at + 8], &length, 8);
    std::memcpy(&page.bytes[at + 16], "name-of", 7);
    page.bytes[at + 23] = static_cast<std::byte>('a' + mix(number + at) % 26);
    std::memcpy(&page.bytes[at + 24], &id, 8);
  }
  return page;
}

// Pages of one family share noise that nothing but a relative compresses and differ in a few words;
// every third has a line of digits of its own, which a patch keeps as they are and a delta halves.
inline PageCopy kin_of(std::uint64_t family, std::uint64_t member) noexcept {
  PageCopy page = page_of(mix(family) | 1, kPageSize);
  for (std::uint64_t i = 0; i < 6; ++i) {
    const std::uint64_t word = mix(family ^ mix(member * 8 + i));
    std::memcpy(&page.bytes[mix(word) % (kPageSize / 8) * 8], &word, sizeof word);
  }
  for (std::uint64_t i = 0; member % 3 == 0 && i < 400; ++i) {
    page.bytes[3000 + i] = std::byte{static_cast<unsigned char>('0' + mix(member * 400 + i) % 10)};
  }
  return page;
}
// Pages whose words count up, which compress by columns.
inline PageCopy table_of(std::uint64_t number) noexcept {
  PageCopy page;
  for (std::uint64_t i = 0; i < kPageSize / 8; ++i) {
    const std::uint64_t word = mix(number) + i * (0x10003 + number % 7);
    std::memcpy(&page.bytes[i * 8], &word, sizeof word);
  }
  return page;
}

// A mixture of all of these: something for every form.
inline PageCopy any_page(std::uint64_t number) noexcept {
  switch (number % 4) {
    case 0: return table_of(number);
    case 1: return page_of(number);
    default: return kin_of(number / 16, number);
  }
}

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}
inline void must(Status status) {
  if (!status) throw std::runtime_error(status.error().text());
}

}  // namespace ramfold::store::test
