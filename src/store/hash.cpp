// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/hash.hpp"

#include "base/types.hpp"

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL
// The library is C, and does not satisfy these warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wcast-align"
#include <xxhash.h>
#pragma GCC diagnostic pop

namespace ramfold::store {

using Kernel = std::uint64_t(const std::byte*, const std::byte*, std::size_t,
                             std::uint64_t) noexcept;
Kernel hash_kernel_sse2;
Kernel hash_kernel_avx2;

namespace {
Kernel* const kernel = __builtin_cpu_supports("avx2") ? hash_kernel_avx2 : hash_kernel_sse2;
}  // namespace

PageHasher::PageHasher(std::uint64_t seed) noexcept : seed_(seed) {
  static_assert(kSecretBytes == XXH_SECRET_DEFAULT_SIZE);
  XXH3_generateSecret_fromSeed(secret_.data(), seed);
}

std::uint64_t PageHasher::operator()(const std::byte* page) const noexcept {
  return kernel(page, secret_.data(), kSecretBytes, seed_);
}

std::uint64_t plain_checksum(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace ramfold::store
