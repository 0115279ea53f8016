// SPDX-License-Identifier: GPL-2.0-or-later
// What others could save of a set of guests' RAM (bench/guest_pages.hpp), exactly, and without
// anything that they spend on finding it: all equal pages once, as an ideal KSM; those compressed
// with LZ4; and every page by itself compressed with LZ4, as zram would. Threads: one.
// usage: bench_peers SET_DIRECTORY   prints JSON, per cent of the RAM that is not zero
#include <lz4.h>

#include <cstdio>

#include "bench/guest_pages.hpp"

using namespace ramfold;
using namespace ramfold::bench;

namespace {

std::uint64_t lz4_bytes(const PageCopy& page) {
  std::array<char, LZ4_COMPRESSBOUND(kPageSize)> out;
  const int size = LZ4_compress_default(reinterpret_cast<const char*>(page.bytes.data()),
                                        out.data(), kPageSize, static_cast<int>(out.size()));
  if (size <= 0) throw std::runtime_error("LZ4 failed");
  return std::min<std::uint64_t>(static_cast<std::uint64_t>(size), kPageSize);
}

void run(const std::string& directory) {
  const GuestPages set = load_set(directory);
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
  std::printf("{\"nonzero_pages\": %llu, \"ksm\": %.2f, \"sharing_lz4\": %.2f, \"lz4\": %.2f}\n",
              static_cast<unsigned long long>(set.nonzero_count),
              saved(set.pages.size() * kPageSize), saved(shared), saved(alone));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SET_DIRECTORY\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "bench_peers: %s\n", problem.what());
    return 2;
  }
  return 0;
}
