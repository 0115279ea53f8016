// SPDX-License-Identifier: GPL-2.0-or-later
// A bucket is one cache line of the index: 12 tags of 8 bits and 12 ids, in no order. And the parts
// of a hash.
// Threads: under the lock of the bucket's segment.
#pragma once

#include <emmintrin.h>
#include <array>
#include <cstddef>
#include <cstdint>

namespace ramfold::store {

// Bits of a hash: 0-20 the directory, 22-29 the tag, 30-46 the first bucket, 47-63 the second.
constexpr std::uint8_t tag_of(std::uint64_t hash) noexcept {
  return static_cast<std::uint8_t>(hash >> 22);
}
constexpr std::uint32_t first_bucket(std::uint64_t hash, std::uint32_t buckets) noexcept {
  return static_cast<std::uint32_t>((((hash >> 30) & 0x1ffff) * buckets) >> 17);
}
constexpr std::uint32_t second_bucket(std::uint64_t hash, std::uint32_t buckets) noexcept {
  return static_cast<std::uint32_t>(((hash >> 47) * buckets) >> 17);
}

struct alignas(64) Bucket {
  static constexpr std::size_t kEntries = 12;

  std::array<std::uint8_t, kEntries> tags;
  std::uint32_t used;  // entries [0, used) are filled
  std::array<std::uint32_t, kEntries> ids;

  // A bitmap of the entries with this tag.
  unsigned matches(std::uint8_t tag) const noexcept {
    const __m128i line = _mm_load_si128(reinterpret_cast<const __m128i*>(tags.data()));
    const __m128i equal = _mm_cmpeq_epi8(line, _mm_set1_epi8(static_cast<char>(tag)));
    return static_cast<unsigned>(_mm_movemask_epi8(equal)) & ((1u << used) - 1);
  }
  // REQUIRES: used < kEntries.
  void add(std::uint8_t tag, std::uint32_t id) noexcept {
    tags[used] = tag;
    ids[used] = id;
    ++used;
  }
  bool remove(std::uint8_t tag, std::uint32_t id) noexcept {
    for (unsigned hits = matches(tag); hits != 0; hits &= hits - 1) {
      const auto at = static_cast<std::size_t>(__builtin_ctz(hits));
      if (ids[at] != id) continue;
      --used;
      tags[at] = tags[used];
      ids[at] = ids[used];
      return true;
    }
    return false;
  }
};
static_assert(sizeof(Bucket) == 64);

}  // namespace ramfold::store
