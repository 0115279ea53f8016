// SPDX-License-Identifier: GPL-2.0-or-later
// XXH3-64 of a page with a group's seed. The secret is derived from the seed once for each group,
// not for each page.
// Threads: pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ramfold::store {

class PageHasher {
 public:
  PageHasher() noexcept = default;
  explicit PageHasher(std::uint64_t seed) noexcept;
  // The same value as XXH3_64bits_withSeed(page, 4096, seed).
  std::uint64_t operator()(const std::byte* page) const noexcept;
  std::uint64_t seed() const noexcept { return seed_; }

 private:
  static constexpr std::size_t kSecretBytes = 192;

  alignas(64) std::array<std::byte, kSecretBytes> secret_{};
  std::uint64_t seed_ = 0;
};

// Tests replace the hash to force collisions. nullptr: XXH3-64.
using HashFunction = std::uint64_t (*)(const std::byte* page, std::uint64_t seed) noexcept;

// XXH3-64 without a seed, for the checksums of the persistent structures.
std::uint64_t plain_checksum(std::span<const std::byte> bytes) noexcept;

}  // namespace ramfold::store
