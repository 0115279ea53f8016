// SPDX-License-Identifier: GPL-2.0-or-later
// Random numbers of a test: the seed is printed, and RAMFOLD_SEED repeats a run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "pages.hpp"

namespace ramfold::store::test {

inline std::uint64_t seed_of_run() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("RAMFOLD_SEED");
    const std::uint64_t s =
        given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
    std::printf("seed: RAMFOLD_SEED=%llu\n", static_cast<unsigned long long>(s));
    std::fflush(stdout);
    return s;
  }();
  return seed;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept { return state_ = mix(state_); }
  // 0 <= result < bound.
  std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }
  bool one_in(std::uint64_t n) noexcept { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

}  // namespace ramfold::store::test
