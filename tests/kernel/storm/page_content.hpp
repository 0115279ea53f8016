// SPDX-License-Identifier: GPL-2.0-or-later
// What the storm's pages hold: every byte follows from a description of 8 bytes that lies outside
// guest RAM, so that any thread can verify any page.
// Threads: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace storm {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kWords = kPage / 8;
inline constexpr std::uint32_t kFileBlocks = 256;  // pages of the file that is read into RAM
inline constexpr std::uint32_t kDuplicates = 6;    // values that pages of all guests share
inline constexpr std::uint32_t kStampsMax =
    15;  // words changed since the page was written as a whole

using Page = std::array<std::uint64_t, kWords>;

enum class Kind : std::uint8_t { zero, duplicate, compressible, random, file };
inline constexpr std::array kKindNames{"zero", "duplicate", "compressible", "random", "file"};

struct Description {
  Kind kind = Kind::zero;
  std::uint8_t stamps = 0;
  std::uint32_t version = 0;

  constexpr std::uint64_t bits() const noexcept {
    return static_cast<std::uint64_t>(kind) | std::uint64_t{stamps} << 8 |
           std::uint64_t{version} << 32;
  }
  static constexpr Description of(std::uint64_t bits) noexcept {
    return {static_cast<Kind>(bits & 255), static_cast<std::uint8_t>(bits >> 8),
            static_cast<std::uint32_t>(bits >> 32)};
  }
};

constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// One page of the file.
inline void fill_file_block(std::uint32_t block, Page& out) noexcept {
  for (std::size_t i = 0; i < kWords; ++i) out[i] = mix(0xf11e0000u + block * kWords + i);
}

constexpr std::size_t stamp_at(std::uint64_t page, std::uint32_t number) noexcept {
  return mix(page * 31 + number) % kWords;
}
constexpr std::uint64_t stamp_value(std::uint64_t page, std::uint32_t version,
                                    std::uint32_t number) noexcept {
  return mix(mix(page) ^ (std::uint64_t{version} << 8 | number));
}

// `guest` tells processes apart where they should not share.
inline void fill(Description d, std::uint64_t page, std::uint64_t guest, Page& out) noexcept {
  const std::uint64_t own = mix(mix(guest + 1) ^ mix(page) ^ d.version);
  switch (d.kind) {
    case Kind::zero: out.fill(0); break;
    case Kind::duplicate:
      for (std::size_t i = 0; i < kWords; ++i)
        out[i] = mix((d.version % kDuplicates + 1) * 4099u + i % 32);
      break;
    case Kind::compressible:
      for (std::size_t i = 0; i < kWords; ++i) out[i] = i % 16 == 0 ? own + i : own ^ (i % 8);
      break;
    case Kind::random:
      for (std::size_t i = 0; i < kWords; ++i) out[i] = mix(own + i);
      break;
    case Kind::file: fill_file_block(d.version % kFileBlocks, out); break;
  }
  for (std::uint32_t n = 1; n <= d.stamps; ++n)
    out[stamp_at(page, n)] = stamp_value(page, d.version, n);
}

}  // namespace storm
