// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "pages.hpp"
#include "random.hpp"
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

}  // namespace

TEST_CASE("similarity: a sketch has the smallest hashes, ascending, each once") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const Sketcher sketcher(random.next());
  for (int i = 0; i < 500; ++i) {
    PageCopy page = random.one_in(2) ? noise(random.next()) : page_of(random.next());
    const Sketch sketch = sketcher(page);
    REQUIRE(sketch.count >= 1);
    for (std::size_t k = 1; k < sketch.count; ++k) REQUIRE(sketch.hashes[k - 1] < sketch.hashes[k]);
    // The order of the blocks does not matter.
    PageCopy turned;
    std::memcpy(&turned.bytes[0], &page.bytes[2048], 2048);
    std::memcpy(&turned.bytes[2048], &page.bytes[0], 2048);
    const Sketch same = sketcher(turned);
    REQUIRE(same.count == sketch.count);
    REQUIRE(std::equal(sketch.hashes.begin(),
                       sketch.hashes.begin() + static_cast<std::ptrdiff_t>(sketch.count),
                       same.hashes.begin()));
  }
}

TEST_CASE("similarity: zeros have no hash, equal blocks one") {
  const Sketcher sketcher(1);
  CHECK(sketcher(PageCopy{}).count == 0);
  PageCopy same;
  same.bytes.fill(std::byte{7});
  CHECK(sketcher(same).count == 1);
  PageCopy high{};  // nothing where it counts
  for (std::size_t at = 0; at < kPageSize; at += 8) add_to_word(high, at, 0x7fff'0000);
  CHECK(sketcher(high).count == 0);
}

TEST_CASE("similarity: moved pointers change no sketch") {
  const Sketcher sketcher(2);
  PageCopy page = noise(1);
  const Sketch before = sketcher(page);
  for (std::size_t at = 0; at < kPageSize; at += 8) add_to_word(page, at, 0x1234'5670'0000);
  const Sketch after = sketcher(page);
  REQUIRE(before.count == after.count);
  CHECK(before.hashes == after.hashes);
}

TEST_CASE("similarity: the sketches of two groups have nothing in common") {
  const Sketch one = Sketcher(1)(noise(1)), other = Sketcher(2)(noise(1));
  for (std::size_t i = 0; i < one.count; ++i) {
    for (std::size_t k = 0; k < other.count; ++k) CHECK(one.hashes[i] != other.hashes[k]);
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
  const Sketch sketch{{10, 20, 30, 40}, 4};
  index->insert({{10, 90, 0, 0}, 2}, ContentId{1});
  index->insert({{30, 40, 0, 0}, 2}, ContentId{2});
  const auto found = index->find(sketch);
  REQUIRE(found.count == 2);
  CHECK(found.ids[0] == ContentId{2});
  CHECK(found.ids[1] == ContentId{1});
}

TEST_CASE(
    "similarity: sixteen bytes a content at any size, and most are found however many there are") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const auto index = must(SimilarityIndex::make(kContentsMax));
  std::vector<Sketch> sketches;
  for (std::uint32_t i = 0; i < 60'000; ++i) {
    Sketch sketch{{random.next(), random.next(), random.next(), random.next()}, Sketch::kHashesMax};
    std::ranges::sort(sketch.hashes);
    index->insert(sketch, ContentId{i + 1});
    sketches.push_back(sketch);
    REQUIRE(index->memory().value <= std::max<std::uint64_t>(4096, 16 * (std::uint64_t{i} + 1)));
  }
  std::size_t found = 0, strangers = 0;
  for (std::uint32_t i = 0; i < sketches.size(); ++i) {
    const auto candidates = index->find(sketches[i]);
    for (const ContentId id : candidates.all()) (id.value == i + 1 ? found : strangers) += 1;
  }
  // The table is full by design: about one content in nine is forgotten.
  CHECK(found > sketches.size() * 8 / 10);
  CHECK(strangers < sketches.size() / 50);
  for (std::uint32_t i = 0; i < sketches.size(); ++i) index->remove(sketches[i], ContentId{i + 1});
  for (const Sketch& sketch : sketches) REQUIRE(index->find(sketch).count == 0);
}

TEST_CASE("similarity: a table that may not grow forgets, and goes on") {
  const auto index = must(SimilarityIndex::make(1));
  Random random(11);
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    Sketch sketch{{random.next(), random.next(), 0, 0}, 2};
    std::sort(sketch.hashes.begin(), sketch.hashes.begin() + 2);
    index->insert(sketch, ContentId{i + 1});
    REQUIRE(finds(*index, sketch, ContentId{i + 1}));
  }
  CHECK(index->memory().value == 4096);
}

TEST_CASE("similarity: many threads") {
  const auto index = must(SimilarityIndex::make(kContentsMax));
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&index, t] {
      Random random(t + 100);
      std::vector<Sketch> mine;
      for (std::uint32_t i = 0; i < 5000; ++i) {
        Sketch sketch{{random.next(), random.next(), 0, 0}, 2};
        std::sort(sketch.hashes.begin(), sketch.hashes.begin() + 2);
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
