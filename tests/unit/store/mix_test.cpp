// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/mix/mix.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pages.hpp"
#include "plain_mix.hpp"
#include "random.hpp"
#include "store/mix/probability.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

using Bytes = std::vector<std::byte>;

const std::byte* data_of(const PageCopy* page) {
  return page == nullptr ? nullptr : page->bytes.data();
}

// Without slack, for the sanitizer; empty: no smaller than the page.
Bytes encoded(const PageCopy& page, const PageCopy* reference) {
  Bytes bytes(kPageSize - 1);
  bytes.resize(mix::encode(page.bytes.data(), data_of(reference), bytes));
  return Bytes(bytes.begin(), bytes.end());
}

// The real reader and the plain one agree; returns whether it is a page.
bool readers_agree(const Bytes& bytes, const PageCopy* reference, PageCopy& out) {
  const bool ok = mix::decode(bytes, data_of(reference), out.bytes.data());
  const auto plain = PlainMixReader::read(bytes, reference);
  REQUIRE(ok == plain.has_value());
  if (ok) REQUIRE(std::memcmp(plain->data(), out.bytes.data(), kPageSize) == 0);
  return ok;
}

// Of a page in which only few places differ from `like`.
PageCopy changed(const PageCopy& like, Random& random) {
  PageCopy page = like;
  for (std::uint64_t n = random.below(40); n > 0; --n) {
    page.bytes[random.below(kPageSize)] = static_cast<std::byte>(random.next());
  }
  return page;
}

}  // namespace

TEST_CASE("the tables of mixed pages are those of the format") {
  CHECK(XXH3_64bits(mix::detail::kSquash.data(), sizeof mix::detail::kSquash) ==
        0x4b5c'd884'a773'313e);
  CHECK(XXH3_64bits(mix::detail::kStretch.data(), sizeof mix::detail::kStretch) ==
        0xdc2f'7e0c'8b9b'b7f3);
}

TEST_CASE("a page comes back from its mixed form, by both readers, alone and with a reference") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  std::vector<PageCopy> pages{PageCopy{}, page_of(7, 1), page_of(8, kPageSize / 2)};
  for (std::uint64_t i = 0; i < 12; ++i) {
    pages.push_back(records_of(random.next()));
    pages.push_back(table_of(random.next()));
    pages.push_back(page_of(random.next()));
    pages.push_back(changed(pages[pages.size() - 3], random));
    pages.push_back(kin_of(i % 3, random.next()));
  }
  std::size_t smaller = 0;
  PageCopy out;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const PageCopy& any = pages[random.below(pages.size())];
    for (const PageCopy* const reference :
         std::initializer_list<const PageCopy*>{nullptr, &pages[i], &any}) {
      const Bytes bytes = encoded(pages[i], reference);
      if (bytes.empty()) continue;
      ++smaller;
      REQUIRE(readers_agree(bytes, reference, out));
      REQUIRE(out.bytes == pages[i].bytes);
      // One byte less is no room.
      Bytes less(bytes.size() - 1);
      CHECK(mix::encode(pages[i].bytes.data(), data_of(reference), less) == 0);
    }
  }
  CHECK(smaller > 2 * pages.size());
}

TEST_CASE("a page that its reference equals takes some bytes, one that is like it few") {
  Random random(5);
  const PageCopy like = page_of(1, kPageSize);
  CHECK(encoded(like, &like).size() <= 8);
  const PageCopy page = changed(like, random);
  CHECK(encoded(page, &like).size() < 250);
  CHECK(encoded(page, nullptr).empty());  // noise
}

TEST_CASE("any bytes are a mixed page, or are none, to both readers alike") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const PageCopy reference = records_of(1);
  PageCopy out;
  std::size_t pages = 0;
  for (int i = 0; i < 150; ++i) {
    Bytes bytes(1 + random.below(i % 3 == 0 ? 8 : 600));
    for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
    pages += readers_agree(bytes, i % 2 == 0 ? &reference : nullptr, out);
  }
  for (int i = 0; i < 60; ++i) {
    Bytes bytes =
        encoded(records_of(static_cast<std::uint64_t>(i)), i % 2 == 0 ? &reference : nullptr);
    REQUIRE_FALSE(bytes.empty());
    if (i % 3 == 0) bytes.resize(1 + random.below(bytes.size()));
    bytes[random.below(bytes.size())] ^= static_cast<std::byte>(1u << random.below(8));
    pages += readers_agree(bytes, i % 2 == 0 ? &reference : nullptr, out);
  }
  CAPTURE(pages);
  CHECK(pages > 0);
  CHECK(pages < 210);
}

TEST_CASE("what was written by an earlier version of the code is read") {
  const auto page_with = [](std::size_t every) {
    PageCopy page;
    for (std::size_t i = 0; i < kPageSize; ++i) {
      page.bytes[i] = static_cast<std::byte>(i % every < 8 ? "ramfold\n"[i % every]
                                                           : static_cast<char>(i / 256));
    }
    return page;
  };
  const auto reads = [](const std::vector<unsigned char>& written, const PageCopy* reference,
                        const PageCopy& page) {
    Bytes bytes(written.size());
    std::memcpy(bytes.data(), written.data(), written.size());
    PageCopy out;
    return mix::decode(bytes, data_of(reference), out.bytes.data()) && out.bytes == page.bytes;
  };
  const PageCopy page = page_with(64);
  const PageCopy like = page_with(48);
  CHECK(reads({199, 26,  199, 224, 157, 158, 119, 0,   154, 9,   172, 111, 131, 161,
               132, 248, 241, 223, 103, 254, 1,   188, 211, 77,  154, 68,  154, 221,
               249, 29,  223, 221, 12,  30,  125, 216, 238, 103, 172, 102, 59,  166,
               128, 58,  134, 210, 53,  173, 150, 31,  77,  141, 224, 167, 180, 181},
              nullptr, page));
  CHECK(reads({50,  204, 71,  75,  105, 205, 104, 78, 115, 34,  119, 173, 211, 213, 225,
               118, 16,  242, 57,  237, 234, 46,  1,  70,  250, 68,  65,  95,  110, 109,
               161, 248, 241, 172, 251, 109, 47,  66, 24,  202, 209, 155, 214, 184, 98,
               144, 121, 140, 3,   86,  38,  12,  3,  146, 80,  184, 14},
              &like, page));
}
