// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/lz4.hpp"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "pages.hpp"
#include "random.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

// Short repeats at many distances, as real pages have them.
PageCopy page_of_repeats(Random& random) {
  PageCopy page;
  std::size_t at = 0;
  while (at < kPageSize) {
    const std::size_t length = std::min<std::size_t>(kPageSize - at, random.below(40) + 1);
    const bool repeats = at > 0 && !random.one_in(3);
    const std::size_t distance = repeats ? random.below(std::min<std::size_t>(at, 64)) + 1 : 0;
    for (std::size_t i = 0; i < length; ++i, ++at) {
      page.bytes[at] = repeats ? page.bytes[at - distance] : static_cast<std::byte>(random.next());
    }
  }
  return page;
}

}  // namespace

TEST_CASE("pages of all kinds decode to themselves") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  for (int i = 0; i < 3000; ++i) {
    const PageCopy page = random.one_in(2) ? page_of_repeats(random) : page_of(random.next());
    std::array<std::byte, kPageSize> block;
    const std::uint32_t length = lz4::encode(page, block);
    if (length == 0) continue;
    PageCopy decoded;
    REQUIRE(lz4::decode(std::span(block).first(length), decoded.bytes.data()));
    REQUIRE(decoded.bytes == page.bytes);
  }
}

TEST_CASE("any bytes decode within bounds or not at all") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run()));
  for (int i = 0; i < 30'000; ++i) {
    const PageCopy page = page_of_repeats(random);
    std::array<std::byte, kPageSize> block;
    std::uint32_t length = lz4::encode(page, block);
    if (length == 0) continue;
    for (std::uint64_t n = random.below(8) + 1; n-- > 0;) {
      block[random.below(length)] = static_cast<std::byte>(random.next());
    }
    if (random.one_in(4)) length = static_cast<std::uint32_t>(random.below(length) + 1);
    // Without slack on either side, for the sanitizer.
    const std::vector<std::byte> exact(block.begin(), block.begin() + length);
    const auto decoded = std::make_unique<PageCopy>();
    (void)lz4::decode(exact, decoded->bytes.data());
  }
}

TEST_CASE("a page that does not compress is refused at the bound") {
  std::array<std::byte, kPageSize> block;
  CHECK(lz4::encode(page_of(1, kPageSize), std::span(block).first(lz4::kEncodedMax)) == 0);
  CHECK(lz4::encode(page_of(1, 3000), std::span(block).first(lz4::kEncodedMax)) != 0);
}
