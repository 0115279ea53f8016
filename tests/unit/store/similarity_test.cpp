// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "pages.hpp"
#include "random.hpp"
#include "store/similarity/overlap.hpp"
#include "store/similarity/similarity_index.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr std::uint32_t kContentsMax = 1u << 20;

PageCopy noise(std::uint64_t number) { return page_of(number, kPageSize); }

bool finds(const SimilarityIndex& index, const Sketch& sketch, ContentId id) {
  const auto found = index.find(sketch);
  return std::ranges::find(found.all(), id) != found.all().end();
}

void add_to_word(PageCopy& page, std::size_t at, std::uint64_t amount) {
  std::uint64_t word = 0;
  std::memcpy(&word, &page.bytes[at], sizeof word);
  word += amount;
  std::memcpy(&page.bytes[at], &word, sizeof word);
}

std::size_t common(const Sketch::Smallest& a, const Sketch::Smallest& b) {
  std::size_t n = 0;
  for (const std::uint64_t hash : std::span(a.hashes).first(a.count)) {
    n += std::ranges::count(std::span(b.hashes).first(b.count), hash) != 0 ? 1 : 0;
  }
  return n;
}

Sketch::Smallest smallest(std::vector<std::uint64_t> hashes) {
  std::ranges::sort(hashes);
  Sketch::Smallest s;
  s.count = std::min(hashes.size(), Sketch::kOfFamily);
  std::copy_n(hashes.begin(), s.count, s.hashes.begin());
  return s;
}
Sketch any_sketch(Random& random) {
  return {smallest({random.next(), random.next(), random.next()}),
          smallest({random.next(), random.next()})};
}

}  // namespace

TEST_CASE("similarity: a sketch has the smallest hashes, ascending, each once") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const Sketcher sketcher(random.next());
  for (int i = 0; i < 500; ++i) {
    const Sketch sketch =
        sketcher(random.one_in(2) ? noise(random.next()) : page_of(random.next()));
    REQUIRE_FALSE(sketch.empty());
    for (const Sketch::Smallest* family : {&sketch.low, &sketch.bytes}) {
      for (std::size_t k = 1; k < family->count; ++k)
        REQUIRE(family->hashes[k - 1] < family->hashes[k]);
    }
  }
  const Sketch full = sketcher(noise(1));
  CHECK(full.low.count == Sketch::kOfFamily);
  CHECK(full.bytes.count == Sketch::kOfFamily);
}

TEST_CASE("similarity: zeros have no hash, a pattern that goes on has one at most") {
  for (std::uint64_t seed = 0; seed < 64; ++seed) {
    const Sketcher sketcher(seed);
    CHECK(sketcher(PageCopy{}).empty());
    PageCopy same;
    same.bytes.fill(std::byte{7});
    CHECK(sketcher(same).low.count == 1);
    CHECK(sketcher(same).bytes.count <= 1);
    PageCopy high{};  // nothing where it counts
    for (std::size_t at = 0; at < kPageSize; at += 8) add_to_word(high, at, 0x7fff'0000);
    CHECK(sketcher(high).low.count == 0);
    PageCopy lonely{};  // never two in a window
    for (std::size_t at = 0; at < kPageSize; at += 64) add_to_word(lonely, at, at + 1);
    CHECK(sketcher(lonely).low.count == 0);
  }
}

TEST_CASE("similarity: moved pointers change no hash of the low parts") {
  const Sketcher sketcher(2);
  PageCopy page = noise(1);
  const Sketch before = sketcher(page);
  for (std::size_t at = 0; at < kPageSize; at += 8) add_to_word(page, at, 0x1234'5670'0000);
  const Sketch after = sketcher(page);
  CHECK(before.low.count == after.low.count);
  CHECK(before.low.hashes == after.low.hashes);
  CHECK(common(before.bytes, after.bytes) == 0);
}

TEST_CASE("similarity: bytes that have moved keep their hashes") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Sketcher sketcher(seed);
    PageCopy page = noise(seed), moved = noise(seed + 1000);
    constexpr std::size_t kBy = 13;
    std::memcpy(&moved.bytes[kBy], page.bytes.data(), kPageSize - kBy);
    CHECK(common(sketcher(page).bytes, sketcher(moved).bytes) >= Sketch::kOfFamily - 2);
    constexpr std::size_t kWords = 5 * 8;
    std::memcpy(&moved.bytes[kWords], page.bytes.data(), kPageSize - kWords);
    CHECK(common(sketcher(page).low, sketcher(moved).low) >= Sketch::kOfFamily - 2);
  }
}

TEST_CASE("similarity: the sketches of two groups have nothing in common") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Sketch one = Sketcher(seed)(noise(1)), other = Sketcher(seed + 1)(noise(1));
    CHECK(common(one.low, other.low) == 0);
    CHECK(common(one.bytes, other.bytes) == 0);
  }
}

TEST_CASE("similarity: what resembles is found, until it is removed") {
  const auto index = must(SimilarityIndex::make(kContentsMax));
  const Sketcher sketcher(3);
  std::vector<PageCopy> pages;
  for (std::uint32_t i = 0; i < 100; ++i) {
    pages.push_back(noise(i));
    index->insert(sketcher(pages.back()), ContentId{i + 1});
  }
  Random random(5);
  int found = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    PageCopy edited = pages[i];
    for (int n = 0; n < 6; ++n) edited.bytes[random.below(kPageSize)] = std::byte{0x55};
    found += finds(*index, sketcher(edited), ContentId{i + 1}) ? 1 : 0;
    index->remove(sketcher(pages[i]), ContentId{i + 1});
    CHECK_FALSE(finds(*index, sketcher(pages[i]), ContentId{i + 1}));
  }
  CHECK(found >= 90);
  CHECK(index->contents_count() == 0);
}

TEST_CASE("similarity: what has most in common comes first, and nothing comes twice") {
  const auto index = must(SimilarityIndex::make(kContentsMax));
  const Sketch sketch{smallest({10, 20, 30, 40}), smallest({50, 60})};
  index->insert({smallest({10, 90}), {}}, ContentId{1});
  index->insert({smallest({40, 91}), smallest({50, 92})}, ContentId{2});
  index->insert({{}, smallest({60, 93})}, ContentId{3});
  const auto found = index->find(sketch);
  REQUIRE(found.count == 3);
  CHECK(found.ids[0] == ContentId{2});
  CHECK(found.ids[1] == ContentId{1});  // under the smaller hash
  CHECK(found.ids[2] == ContentId{3});
}

TEST_CASE("similarity: sixteen bytes a content, however many there are, and most are found") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const auto index = must(SimilarityIndex::make(kContentsMax));
  constexpr std::uint32_t kCount = 60'000;
  std::vector<Sketch> sketches;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    sketches.push_back(any_sketch(random));
    index->insert(sketches.back(), ContentId{i + 1});
    REQUIRE(index->memory().value <= std::max<std::uint64_t>(4096, 16 * (std::uint64_t{i} + 1)));
  }
  std::size_t found = 0, strangers = 0;
  const auto look = [&](std::uint32_t first) {
    found = strangers = 0;
    for (std::uint32_t i = first; i < kCount; ++i) {
      const auto candidates = index->find(sketches[i]);
      for (const ContentId id : candidates.all()) (id.value == i + 1 ? found : strangers) += 1;
    }
  };
  // There is room for 10 of the 16 hashes of four contents, if they are all different.
  look(0);
  CHECK(found > kCount * 7 / 10);
  CHECK(strangers < kCount / 50);
  // It becomes smaller as they leave, and those that stay have not been forgotten for it.
  constexpr std::uint32_t kLeave = kCount * 9 / 10;
  for (std::uint32_t i = 0; i < kLeave; ++i) index->remove(sketches[i], ContentId{i + 1});
  CHECK(index->memory().value <= 32 * (kCount - kLeave));
  look(kLeave);
  CHECK(found > (kCount - kLeave) * 9 / 10);
  CHECK(strangers < kCount / 500);
  for (std::uint32_t i = kLeave; i < kCount; ++i) index->remove(sketches[i], ContentId{i + 1});
  CHECK(index->memory().value == 4096);
  for (const Sketch& sketch : sketches) REQUIRE(index->find(sketch).count == 0);
}

TEST_CASE("similarity: a table that may not grow forgets, and goes on") {
  const auto index = must(SimilarityIndex::make(1));
  Random random(11);
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    const Sketch sketch = any_sketch(random);
    index->insert(sketch, ContentId{i + 1});
    REQUIRE(finds(*index, sketch, ContentId{i + 1}));
  }
  CHECK(index->memory().value == 4096);
}

TEST_CASE("similarity: the more of its pieces another page has, the more it overlaps") {
  const PageCopy page = noise(1);
  Overlap overlap;
  overlap.begin(page);
  const unsigned all = overlap.with(page);
  CHECK(all > kPageSize * 9 / 10);
  CHECK(all <= kPageSize - 3);
  unsigned before = all;
  for (const std::size_t kept : {3072u, 2048u, 1024u, 0u}) {
    PageCopy other = noise(2);
    // Somewhere else, as far as it goes.
    std::memcpy(&other.bytes[kPageSize - kept], page.bytes.data(), kept);
    const unsigned found = overlap.with(other);
    CHECK(found < before - 200);
    before = found;
  }
  // Nothing but hashes in common, and the other way round the same.
  CHECK(before < kPageSize / 5);
  overlap.begin(page_of(7, 16));  // one pattern: a piece counts once, however often it comes
  CHECK(overlap.with(page_of(7, 16)) < 40);
}

TEST_CASE("similarity: many threads") {
  const auto index = must(SimilarityIndex::make(kContentsMax));
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&index, t] {
      Random random(t + 100);
      std::vector<Sketch> mine;
      for (std::uint32_t i = 0; i < 5000; ++i) {
        const Sketch sketch = any_sketch(random);
        index->insert(sketch, ContentId{t * 5000 + i + 1});
        mine.push_back(sketch);
        (void)index->find(mine[random.below(mine.size())]);
      }
      for (std::uint32_t i = 0; i < 5000; ++i) index->remove(mine[i], ContentId{t * 5000 + i + 1});
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(index->contents_count() == 0);
}
