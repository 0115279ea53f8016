// SPDX-License-Identifier: GPL-2.0-or-later
// XXH3-64 of a page. meson.build compiles this file once for each instruction set, and names the
// function with RAMFOLD_HASH_KERNEL. All of them give the same value.
#include <cstddef>
#include <cstdint>

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

std::uint64_t RAMFOLD_HASH_KERNEL(const std::byte* page, const std::byte* secret,
                                  std::size_t secret_bytes, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSecretandSeed(page, kPageSize, secret, secret_bytes, seed);
}

}  // namespace ramfold::store
