// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/index/index.hpp"

#include <catch2/catch.hpp>

#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

// Headers without bytes: the index looks at hash, group and whether the content is live.
struct Headers {
  sys::Fd file;
  std::unique_ptr<HeaderTable> table;

  Headers() : file(must(HeaderTable::make_file(ByteCount{1u << 30}, 1))) {
    table = must(HeaderTable::open(file));
  }
  ContentId add(std::uint64_t hash) {
    const ContentId id = must(table->allocate());
    table->publish(id, hash, GroupId{0}, Where({0, kPageSize}, Form::raw));
    return id;
  }
};

}  // namespace

TEST_CASE("what is entered is found, what is removed is not, through growth and splits") {
  Headers headers;
  auto index = must(Index::make(*headers.table, headers.table->superblock().contents_max));
  constexpr std::uint64_t kEntries = 200'000;
  std::vector<ContentId> ids;
  double load_worst = 0;
  for (std::uint64_t i = 0; i < kEntries; ++i) {
    ids.push_back(headers.add(mix(i)));
    REQUIRE_FALSE(index->insert(mix(i), GroupId{0}, ids.back(), Index::OnEqual::report));
    if (i > 50'000) {
      load_worst = std::max(load_worst, static_cast<double>(index->bytes().value) /
                                            static_cast<double>(index->entries()));
    }
  }
  CHECK(index->unindexed() == 0);
  CHECK(index->entries() == kEntries);
  CHECK(load_worst < 7.6);
  for (std::uint64_t i = 0; i < kEntries; ++i) {
    const auto found = index->find(mix(i), GroupId{0});
    REQUIRE(found.count == 1);
    REQUIRE(found.ids[0] == ids[i]);
    REQUIRE(index->find(mix(i), GroupId{1}).count == 0);
    REQUIRE(index->find(mix(i + kEntries), GroupId{0}).count == 0);
  }
  for (std::uint64_t i = 0; i < kEntries; i += 2) index->remove(mix(i), ids[i]);
  for (std::uint64_t i = 0; i < kEntries; ++i) {
    REQUIRE(index->find(mix(i), GroupId{0}).count == i % 2);
  }
  CHECK(index->entries() == kEntries / 2);
}

TEST_CASE("an equal hash is reported with a reference taken") {
  Headers headers;
  auto index = must(Index::make(*headers.table, headers.table->superblock().contents_max));
  const ContentId first = headers.add(42);
  const ContentId second = headers.add(42);
  CHECK_FALSE(index->insert(42, GroupId{0}, first, Index::OnEqual::report));
  CHECK(index->insert(42, GroupId{0}, second, Index::OnEqual::report) == first);
  CHECK(headers.table->count(first) == 2);
  CHECK_FALSE(index->insert(42, GroupId{0}, second, Index::OnEqual::insert_anyway));
  CHECK(index->find(42, GroupId{0}).count == 2);
}

TEST_CASE("room made at once is as dense as room grown into") {
  constexpr std::uint64_t kMost = 100'000;
  for (std::uint64_t count = 1000; count <= kMost; count = count * 5 / 4) {
    Headers headers;
    auto index = must(Index::make(*headers.table, headers.table->superblock().contents_max));
    must(index->reserve(count));
    const std::uint64_t bytes = index->bytes().value;
    std::vector<ContentId> ids;
    for (std::uint64_t i = 0; i < count; ++i) {
      ids.push_back(headers.add(mix(i)));
      index->insert(mix(i), GroupId{0}, ids.back(), Index::OnEqual::insert_anyway);
    }
    CHECK(index->unindexed() == 0);
    CHECK(index->bytes().value <= bytes + bytes / 50);
    if (count > 20'000) CHECK(bytes < count * 8);
    for (std::uint64_t i = 0; i < count; i += 7) {
      REQUIRE(index->find(mix(i), GroupId{0}).count == 1);
    }
  }
}
