// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/owner_share.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <numeric>

using ramfold::OwnerShare;

TEST_CASE("one owner alone gets its share and not more") {
  constexpr OwnerShare share(1024, OwnerShare::kHalf);
  CHECK(share.most(0) == 512);
  CHECK(share.allows(0, 511, 1));
  CHECK_FALSE(share.allows(0, 512, 1));
  CHECK_FALSE(share.allows(0, 500, 13));
  CHECK(OwnerShare(1024, OwnerShare::kEighth).most(0) == 896);
}

TEST_CASE("whoever comes finds a place, however many took all that they may") {
  constexpr OwnerShare share(1024, OwnerShare::kHalf);
  std::array<std::uint64_t, 9> has{};
  for (std::uint64_t& own : has) {
    const std::uint64_t others = std::accumulate(has.begin(), has.end(), std::uint64_t{0});
    while (share.allows(others, own, 1)) ++own;
    CHECK(own > 0);
  }
  CHECK(std::accumulate(has.begin(), has.end(), std::uint64_t{0}) < 1024);
}

TEST_CASE("who has more than its share by now takes no more, and loses nothing") {
  constexpr OwnerShare share(100, OwnerShare::kHalf);
  CHECK_FALSE(share.allows(60, 40, 1));
  CHECK_FALSE(share.allows(60, 40, 0));
  CHECK_FALSE(share.allows(200, 0, 1));
  CHECK(share.allows(99, 0, 1));  // the last place is somebody's
  CHECK_FALSE(share.allows(0, 1, UINT64_MAX));
  CHECK(OwnerShare(0, OwnerShare::kHalf).most(0) == 0);
}
