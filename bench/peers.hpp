// SPDX-License-Identifier: GPL-2.0-or-later
// The exact saving that other tools could reach on a set of guests' RAM, without the memory that
// they spend. Threads: one.
#pragma once

#include <lz4.h>

#include "bench/guest_pages.hpp"

namespace ramfold::bench {

// In per cent of the pages that are not zero.
struct Peers {
  double ksm = 0;          // an ideal one: all equal pages once
  double sharing_lz4 = 0;  // those compressed with LZ4
  double lz4 = 0;          // every page by itself compressed with LZ4, as zram would
};

inline std::uint64_t lz4_bytes(const PageCopy& page) {
  std::array<char, LZ4_COMPRESSBOUND(kPageSize)> out;
  const int size = LZ4_compress_default(reinterpret_cast<const char*>(page.bytes.data()),
                                        out.data(), kPageSize, static_cast<int>(out.size()));
  if (size <= 0) throw std::runtime_error("LZ4 failed");
  return std::min<std::uint64_t>(static_cast<std::uint64_t>(size), kPageSize);
}

inline Peers peers_of(const GuestPages& set) {
  std::vector<std::uint64_t> bytes;
  std::uint64_t shared = 0, alone = 0;
  for (const PageCopy& page : set.pages) shared += bytes.emplace_back(lz4_bytes(page));
  for (const auto& guest : set.guests) {
    for (const std::uint32_t page : guest) alone += page != GuestPages::kZeroPage ? bytes[page] : 0;
  }
  const double all = static_cast<double>(set.nonzero_count) * kPageSize;
  const auto saved = [&](std::uint64_t kept) {
    return 100 * (1 - static_cast<double>(kept) / all);
  };
  return {saved(set.pages.size() * kPageSize), saved(shared), saved(alone)};
}

}  // namespace ramfold::bench
