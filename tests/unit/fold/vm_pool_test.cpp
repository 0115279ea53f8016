// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/vm_pool.hpp"

#include <sys/stat.h>

#include <array>
#include <catch2/catch.hpp>
#include <vector>

#include "pages.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;
using fold::VmPool;

namespace {

constexpr PageCount kPages{3 * guest::kChunkPages.value};
constexpr PageIndex kFirst{guest::kChunkPages.value + 16};
using Places = std::array<std::optional<ByteCount>, 16>;

struct Rig {
  std::unique_ptr<Contents> store = must(Contents::create(ByteCount{64u << 20}));
  GroupUse group = must(store->group("a"));
  Contents::PoolFiles files = must(store->pool(group));
  VmPool pool{*store, group, kPages};

  Rig() { REQUIRE(pool.open(must(files.read_only.duplicate()))); }
  ContentId stored(const PageCopy& page, int pages = 2) {
    ContentId id{};
    for (int i = 0; i < pages; ++i) id = put(*store, group, page).ref.release();
    return id;
  }
  bool reads(const VmPool& from, std::optional<ByteCount> place, const PageCopy& page) const {
    PageCopy seen;
    return place && from.read(*place, seen.bytes.data()) && seen.bytes == page.bytes;
  }
};

}  // namespace

TEST_CASE("neighbours get neighbouring slots, with gaps where no slot is wanted") {
  Rig rig;
  std::array<ContentId, 16> contents{};
  for (std::uint64_t i = 0; i < 16; ++i)
    contents[i] = i == 5 ? kZeroContent : rig.stored(any_page(i + 1));
  Places places;
  REQUIRE(rig.pool.take(kFirst, contents, places));
  std::optional<ByteCount> last;
  for (std::uint64_t i = 0; i < 16; ++i) {
    const PageIndex p{kFirst.value + i};
    CHECK(rig.pool.slot_of(p) == places[i]);
    if (i == 5) {
      CHECK_FALSE(places[i]);
      continue;
    }
    CHECK(rig.reads(rig.pool, places[i], any_page(i + 1)));
    if (last) CHECK(places[i]->value == last->value + kPageSize);
    last = places[i];
  }
  CHECK(rig.pool.mapped().value == 15);
  CHECK(rig.store->stats().pool_mappings == 15);
  for (std::uint64_t i = 0; i < 16; ++i) {
    if (i != 5) rig.pool.give_back(PageIndex{kFirst.value + i});
    CHECK_FALSE(rig.pool.slot_of(PageIndex{kFirst.value + i}));
  }
  CHECK(rig.pool.mapped().value == 0);
  CHECK(rig.store->stats().pool_mappings == 0);
  CHECK(rig.store->stats().miscounted == 0);
}

TEST_CASE("a content that one page names gets no slot, and its neighbours get theirs") {
  Rig rig;
  const std::array contents{rig.stored(any_page(1)), rig.stored(any_page(2), 1),
                            rig.stored(any_page(3))};
  std::array<std::optional<ByteCount>, 3> places;
  REQUIRE(rig.pool.take(kFirst, contents, places));
  CHECK(rig.reads(rig.pool, places[0], any_page(1)));
  CHECK_FALSE(places[1]);
  CHECK(rig.reads(rig.pool, places[2], any_page(3)));
  CHECK(rig.store->stats().pool_mappings == 2);
  // The next page that takes one is in another chunk.
  std::array<std::optional<ByteCount>, 1> again;
  REQUIRE(rig.pool.take(PageIndex{0}, std::span(contents).first(1), again));
  CHECK(again[0] == places[0]);
  for (const std::uint64_t p : {std::uint64_t{0}, kFirst.value, kFirst.value + 2})
    rig.pool.give_back(PageIndex{p});
  CHECK(rig.store->stats().miscounted == 0);
}

TEST_CASE("the file is named as the kernel names it where it is mapped") {
  Rig rig;
  struct stat st{};
  REQUIRE(::fstat(rig.files.kept.file.get(), &st) == 0);
  CHECK(rig.pool.file() == guest::RamFileId{st.st_dev, st.st_ino});
  PageCopy page;
  CHECK_FALSE(rig.pool.read(ByteCount{static_cast<std::uint64_t>(st.st_size)}, page.bytes.data()));
}

TEST_CASE("after a restart each mapping is noted, and can be given back") {
  Rig rig;
  const ContentId id = rig.stored(any_page(1));
  const ContentId other = rig.stored(any_page(2));
  const std::array contents{id, other};
  std::array<std::optional<ByteCount>, 2> places;
  REQUIRE(rig.pool.take(kFirst, contents, places));
  REQUIRE((places[0] && places[1]));
  const auto slot = [&](std::size_t i) {
    return PoolSlot{static_cast<std::uint32_t>(places[i]->value >> kPageShift)};
  };

  auto next = must(Contents::adopt(same_files(*rig.store)));
  const GroupUse group = must(next->group("a"));
  auto kept = must(next->pool_files());
  REQUIRE(kept.size() == 1);
  VmPool pool(*next, group, kPages);
  REQUIRE(pool.open(std::move(kept[0].file)));
  for (const ContentId each : contents) {
    for (int n = 0; n < 2; ++n) REQUIRE(next->count(group, each) == Booked::done);
  }
  CHECK(pool.note(kFirst, id, slot(0)) == Booked::done);
  // A page that is damaged keeps its slot until it maps it no more.
  CHECK(pool.note(kFirst + PageCount{1}, id, slot(1)) == Booked::refused);
  // There is no such slot, so there is nothing to give back.
  CHECK(pool.note(kFirst + PageCount{2}, id, PoolSlot{0xffffff00}).error().code == ENOENT);
  CHECK(pool.note(kFirst + PageCount{2}, id, PoolSlot{0}).error().code == ENOENT);
  CHECK(pool.mapped().value == 2);
  CHECK_FALSE(pool.slot_of(kFirst + PageCount{2}));
  REQUIRE(next->finish_recovery());
  REQUIRE(next->mappings_known(group));
  CHECK(next->stats().pool_mappings == 2);
  CHECK(rig.reads(pool, pool.slot_of(kFirst), any_page(1)));
  pool.give_all_back();
  CHECK(pool.mapped().value == 0);
  CHECK(next->stats().pool_mappings == 0);
  CHECK(next->stats().miscounted == 0);
}

TEST_CASE("a page that has a slot gets no other one before it gives that back") {
  Rig rig;
  std::array<ContentId, 16> contents{};
  contents.fill(kZeroContent);
  contents[3] = rig.stored(any_page(1));
  Places places;
  REQUIRE(rig.pool.take(kFirst, contents, places));
  const auto first = places[3];
  REQUIRE(first);
  // Its word was damaged, and repaired as that of another page.
  contents[3] = contents[4] = rig.stored(any_page(2));
  CHECK_FALSE(rig.pool.take(kFirst, contents, places));
  CHECK_FALSE(places[3]);
  CHECK(rig.pool.slot_of(kFirst + PageCount{3}) == first);
  CHECK(rig.reads(rig.pool, first, any_page(1)));
  CHECK(rig.reads(rig.pool, places[4], any_page(2)));
  CHECK(rig.pool.mapped().value == 2);
  for (const std::uint64_t i : {3u, 4u}) rig.pool.give_back(kFirst + PageCount{i});
  CHECK(rig.pool.mapped().value == 0);
  CHECK(rig.store->stats().pool_mappings == 0);
  CHECK(rig.store->stats().miscounted == 0);
}

TEST_CASE("a pool that is not open yet maps nothing") {
  Rig rig;
  VmPool pool(*rig.store, rig.group, kPages);
  CHECK_FALSE(pool.is_open());
  const std::array contents{rig.stored(any_page(1))};
  std::array<std::optional<ByteCount>, 1> places;
  CHECK(pool.take(kFirst, contents, places));
  CHECK_FALSE(places[0]);
  CHECK(pool.note(kFirst, contents[0], PoolSlot{1}).error().code == ENOENT);
  CHECK(pool.mapped().value == 0);
  CHECK(rig.store->stats().pool_mappings == 0);
}

TEST_CASE("a pool is opened once, and stays the one that it was") {
  Rig rig;
  const guest::RamFileId file = rig.pool.file();
  Rig other;
  const Status again = rig.pool.open(must(other.files.read_only.duplicate()));
  REQUIRE_FALSE(again);
  CHECK(again.error().code == EALREADY);
  CHECK(rig.pool.file() == file);
}

TEST_CASE("a page that has a slot keeps it and gets no other, and that is said") {
  Rig rig;
  const std::array contents{rig.stored(any_page(1)), rig.stored(any_page(2))};
  std::array<std::optional<ByteCount>, 2> places;
  REQUIRE(rig.pool.take(kFirst, std::span(contents).first(1), std::span(places).first(1)));
  const auto slot = places[0];
  REQUIRE(slot);
  CHECK_FALSE(rig.pool.take(kFirst, contents, places));
  CHECK_FALSE(places[0]);
  CHECK(rig.reads(rig.pool, places[1], any_page(2)));
  CHECK(rig.pool.slot_of(kFirst) == slot);
  CHECK(rig.pool.note(kFirst, contents[1], PoolSlot{2}) == Booked::refused);
  CHECK(rig.pool.slot_of(kFirst) == slot);
  CHECK(rig.pool.mapped().value == 2);
  CHECK(rig.store->stats().pool_mappings == 2);
  rig.pool.give_all_back();
  CHECK(rig.store->stats().pool_mappings == 0);
  CHECK_FALSE(rig.store->is_stopped(rig.group));
}

TEST_CASE("a slot that is given back without a counted mapping stops the group") {
  Rig rig;
  const std::array contents{rig.stored(any_page(1))};
  std::array<std::optional<ByteCount>, 1> places;
  REQUIRE(rig.pool.take(kFirst, contents, places));
  REQUIRE(places[0]);
  const PoolSlot slot{static_cast<std::uint32_t>(places[0]->value >> kPageShift)};
  CHECK(rig.store->unmap(rig.group, slot) == Booked::done);
  rig.pool.give_back(kFirst);
  CHECK(rig.store->is_stopped(rig.group));
  CHECK(rig.pool.mapped().value == 0);
}

TEST_CASE("the tables of slots are counted, and go with the last slot of their chunk") {
  Rig rig;
  const std::uint64_t none = rig.pool.tables().value;
  const std::array contents{rig.stored(any_page(1))};
  std::array<std::optional<ByteCount>, 1> places;
  for (const std::uint64_t p : {std::uint64_t{0}, std::uint64_t{1}, kFirst.value})
    REQUIRE(rig.pool.take(PageIndex{p}, contents, places));
  CHECK(rig.pool.tables().value >= none + 2 * guest::kChunkPages.value * sizeof(PoolSlot));
  CHECK(rig.pool.tables() <= VmPool::tables_max(kPages));
  rig.pool.give_back(PageIndex{0});
  CHECK(rig.pool.tables().value > none + guest::kChunkPages.value * sizeof(PoolSlot));
  rig.pool.give_all_back();
  CHECK(rig.pool.tables().value == none);
}
