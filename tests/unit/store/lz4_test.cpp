// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/lz4.hpp"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "pages.hpp"
#include "random.hpp"
#include "store/codec/lz4_compare.hpp"

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

// The block lies between bytes that nobody may read, for the sanitizer.
struct Encoded {
  std::vector<std::byte> block;
  std::unique_ptr<PageCopy> page = std::make_unique<PageCopy>();

  lz4::Comparison comparison() const { return {block, page.get(), false}; }
  bool decodes() const {
    const auto decoded = std::make_unique<PageCopy>();
    return lz4::decode(block, decoded->bytes.data()) && decoded->bytes == page->bytes;
  }
};

Encoded encoded(Random& random) {
  for (;;) {
    Encoded made;
    *made.page = random.one_in(2) ? page_of_repeats(random) : page_of(random.next());
    std::array<std::byte, kPageSize> block;
    const std::uint32_t length = lz4::encode(*made.page, block);
    if (length == 0) continue;
    made.block.assign(block.begin(), block.begin() + length);
    return made;
  }
}

void put_length(std::vector<std::byte>& block, std::size_t length) {
  for (length -= 15; length >= 255; length -= 255) block.push_back(std::byte{255});
  block.push_back(static_cast<std::byte>(length));
}

// Sequences that no encoder makes, with ends that the format allows, and with others.
Encoded any_sequences(Random& random) {
  Encoded made;
  std::size_t at = 0;
  const std::size_t longest = random.one_in(2) ? 14 : 300;
  while (at < kPageSize) {
    const std::size_t room = kPageSize - at;
    std::size_t literals = std::min<std::size_t>(room, random.below(longest));
    if (at == 0) literals = std::max<std::size_t>(literals, 1);
    const bool ends = room - literals < 4 || (room < 24 && random.one_in(2));
    if (ends) literals = room;
    const std::size_t left = room - literals;
    const std::size_t match = ends ? 4 : 4 + random.below(std::min(left - 4, longest) + 1);
    made.block.push_back(static_cast<std::byte>(std::min<std::size_t>(literals, 15) << 4 |
                                                std::min<std::size_t>(match - 4, 15)));
    if (literals >= 15) put_length(made.block, literals);
    for (std::size_t i = 0; i < literals; ++i, ++at) {
      made.page->bytes[at] = static_cast<std::byte>(random.below(4));
      made.block.push_back(made.page->bytes[at]);
    }
    if (ends) break;
    const std::size_t distance = random.one_in(500) ? 0 : random.below(at) + 1;
    made.block.push_back(static_cast<std::byte>(distance));
    made.block.push_back(static_cast<std::byte>(distance >> 8));
    if (match - 4 >= 15) put_length(made.block, match - 4);
    for (std::size_t i = 0; i < match; ++i, ++at)
      made.page->bytes[at] = made.page->bytes[at - distance];
  }
  return made;
}

// What compare() may use here.
std::vector<lz4::Vectors> all_vectors() {
  std::vector<lz4::Vectors> all;
  for (const auto vectors : {lz4::Vectors::none, lz4::Vectors::avx2, lz4::Vectors::avx512}) {
    if (vectors <= lz4::vectors_here()) all.push_back(vectors);
  }
  return all;
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

TEST_CASE("a page is equal to its block, whatever it is paired with") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  for (int i = 0; i < 500; ++i) {
    const Encoded one = encoded(random);
    const Encoded other = random.one_in(4) ? Encoded{} : encoded(random);
    lz4::Pair pair{one.comparison(), other.comparison()};
    if (random.one_in(2)) std::swap(pair[0], pair[1]);
    const lz4::Pair next = random.one_in(2) ? pair : lz4::Pair{};
    for (const lz4::Vectors vectors : all_vectors()) {
      lz4::compare(pair, next, vectors);
      for (const lz4::Comparison& compared : pair)
        REQUIRE(compared.equal == (vectors != lz4::Vectors::none && !compared.block.empty()));
    }
  }
}

TEST_CASE("a page that differs in one bit is not equal, and the page beside it is") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run()));
  for (int i = 0; i < 1000; ++i) {
    const Encoded one = encoded(random);
    const Encoded other = encoded(random);
    const std::size_t at = i < 200 ? (i % 2 == 0 ? i : kPageSize - 1 - i) : random.below(kPageSize);
    one.page->bytes[at] ^= static_cast<std::byte>(1u << random.below(8));
    for (const lz4::Vectors vectors : all_vectors()) {
      lz4::Pair pair{one.comparison(), other.comparison()};
      lz4::compare(pair, {}, vectors);
      REQUIRE_FALSE(pair[0].equal);
      REQUIRE(pair[1].equal == (vectors != lz4::Vectors::none));
    }
  }
}

TEST_CASE("of any block, a page is called equal only when the block decodes to it") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run() + 1));
  unsigned equal = 0;
  for (int i = 0; i < 3'000; ++i) {
    std::array<Encoded, 2> made;
    lz4::Pair pair;
    for (std::size_t k = 0; k < made.size(); ++k) {
      made[k] = random.one_in(3) ? encoded(random) : any_sequences(random);
      std::vector<std::byte>& block = made[k].block;
      if (random.one_in(4))
        block[random.below(block.size())] ^= static_cast<std::byte>(random.next());
      if (random.one_in(8)) block.resize(random.below(block.size()) + 1);
      if (random.one_in(16)) block.push_back(static_cast<std::byte>(random.next()));
      block.shrink_to_fit();
      pair[k] = made[k].comparison();
    }
    for (const lz4::Vectors vectors : all_vectors()) {
      for (lz4::Comparison& compared : pair) compared.equal = false;
      lz4::compare(pair, {}, vectors);
      for (std::size_t k = 0; k < made.size(); ++k) {
        if (pair[k].equal) REQUIRE(made[k].decodes());
      }
    }
    equal += pair[0].equal + pair[1].equal;
  }
  if (lz4::vectors_here() != lz4::Vectors::none) CHECK(equal > 500);
}
