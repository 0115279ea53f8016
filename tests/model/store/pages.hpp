// SPDX-License-Identifier: GPL-2.0-or-later
// Pages for tests of the store: every kind is a function of a number, so that any page can be made again
// and compared.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "base/page_copy.hpp"
#include "store/contents.hpp"

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

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}
inline void must(Status status) {
  if (!status) throw std::runtime_error(status.error().text());
}

inline PutResult put(Contents& store, GroupId group, const PageCopy& page) {
  return must(store.put(group, page, store.hash(group, page)));
}

inline bool holds(Contents& store, ContentId id, const PageCopy& page) {
  PageCopy out;
  return store.get(id, out.bytes.data(), {}) == Got::done && out.bytes == page.bytes;
}

// What a daemon finds after a restart: the same files, nothing else.
inline Contents::Files same_files(const Contents& store) {
  return {must(store.files().contents.duplicate()), must(store.files().arena.duplicate()),
          must(store.files().groups.duplicate())};
}

}  // namespace ramfold::store::test
