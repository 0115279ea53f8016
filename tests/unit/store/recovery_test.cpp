// SPDX-License-Identifier: GPL-2.0-or-later
#include <unistd.h>
#include <catch2/catch.hpp>
#include <map>
#include <vector>

#include "header_words.hpp"
#include "pages.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"
#include "stores.hpp"
#include "sys/memory.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};

// A store that was left with these pages, each named by one word.
struct Left {
  std::unique_ptr<Contents> store = must(Contents::create(kArena));
  GroupUse group = must(store->group("a"));
  std::map<std::uint64_t, ContentId> words;

  explicit Left(std::uint64_t pages) {
    for (std::uint64_t i = 0; i < pages; ++i) {
      words[i] = put(*store, group, page_of(i)).ref.release();
    }
  }
  std::unique_ptr<Contents> restart() {
    auto next = must(Contents::adopt(same_files(*store)));
    group = must(next->group("a"));
    return next;
  }
};

}  // namespace

TEST_CASE("after a restart pages are read at once, put says wait, drops are kept") {
  Left left(1000);
  auto store = left.restart();
  CHECK(store->recovering());
  for (const auto& [number, id] : left.words) REQUIRE(holds(*store, id, page_of(number)));
  const auto refused = store->put(left.group, page_of(1), store->hash(left.group, page_of(1)));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == EAGAIN);
  for (const auto& [number, id] : left.words) store->count(kFirstGroup, id);
  store->drop(kFirstGroup, left.words.at(7));
  left.words.erase(7);
  must(store->finish_recovery());
  CHECK_FALSE(store->recovering());
  for (const auto& [number, id] : left.words) {
    REQUIRE(holds(*store, id, page_of(number)));
    REQUIRE(put(*store, left.group, page_of(number)).existed);
  }
  CHECK_FALSE(put(*store, left.group, page_of(7)).existed);
}

TEST_CASE("contents that nobody counted are swept, with their memory") {
  Left left(20'000);
  const Stats before = left.store->stats();
  auto store = left.restart();
  for (std::uint64_t i = 0; i < 100; ++i) store->count(kFirstGroup, left.words.at(i));
  must(store->finish_recovery());
  const Stats after = store->stats();
  CHECK(after.forms[1].contents + after.forms[2].contents == 100);
  CHECK(after.forms[1].references + after.forms[2].references == 100);
  CHECK(after.arena_allocated.value < before.arena_allocated.value / 4);
  for (std::uint64_t i = 0; i < 100; ++i) REQUIRE(holds(*store, left.words.at(i), page_of(i)));
  for (std::uint64_t i = 0; i < 200; ++i) {
    CHECK(put(*store, left.group, page_of(i)).existed == (i < 100));
  }
}

TEST_CASE("statistics after recovery are those of before") {
  Left left(5000);
  const Stats before = left.store->stats();
  auto store = left.restart();
  for (const auto& [number, id] : left.words) store->count(kFirstGroup, id);
  must(store->finish_recovery());
  const Stats after = store->stats();
  for (std::size_t form = 0; form < kForms; ++form) {
    CHECK(after.forms[form].contents == before.forms[form].contents);
    CHECK(after.forms[form].references == before.forms[form].references);
    CHECK(after.forms[form].stored == before.forms[form].stored);
  }
  CHECK(after.arena_in_slots == before.arena_in_slots);
  CHECK(after.groups.at(0).name == "a");
}

TEST_CASE("a second restart during recovery finds everything again") {
  Left left(3000);
  auto second = left.restart();
  for (std::uint64_t i = 0; i < 1000; ++i) second->count(kFirstGroup, left.words.at(i));
  auto third = left.restart();
  for (const auto& [number, id] : left.words) third->count(kFirstGroup, id);
  must(third->finish_recovery());
  for (const auto& [number, id] : left.words) REQUIRE(holds(*third, id, page_of(number)));
}

TEST_CASE("a drop of a word that was never counted frees nothing") {
  Left left(2);
  auto store = left.restart();
  store->drop(kFirstGroup, left.words.at(0));
  store->count(kFirstGroup, left.words.at(0));
  store->count(kFirstGroup, left.words.at(1));
  must(store->finish_recovery());
  CHECK(holds(*store, left.words.at(0), page_of(0)));
  CHECK(store->stats().miscounted == 1);
  store->drop(kFirstGroup, left.words.at(0));
  store->drop(kFirstGroup, left.words.at(0));
  CHECK(holds(*store, left.words.at(0), page_of(0)));
}

TEST_CASE("a header that was copied over another's is corrupt, not that other content") {
  Left left(3);
  const sys::Fd& file = left.store->files().contents;
  const std::uint64_t from = where_offset(left.words.at(0));
  const std::uint64_t to = where_offset(left.words.at(1));
  write_u64(file, to - 8, read_u64(file, from - 8));
  write_u64(file, to, read_u64(file, from));
  auto store = left.restart();
  PageCopy out;
  CHECK(store->get(kFirstGroup, left.words.at(1), out.bytes.data(), {}) == Got::corrupt);
  for (const auto& [number, id] : left.words) store->count(kFirstGroup, id);
  must(store->finish_recovery());
  CHECK(store->get(kFirstGroup, left.words.at(1), out.bytes.data(), {}) == Got::corrupt);
  CHECK(holds(*store, left.words.at(0), page_of(0)));
  CHECK(holds(*store, left.words.at(2), page_of(2)));
}

TEST_CASE("a damaged superblock or group table is refused") {
  for (const std::uint64_t offset : {0, 8, 12, 16, 24, 32}) {
    Left left(1);
    write_u64(left.store->files().contents, offset,
              read_u64(left.store->files().contents, offset) ^ 0x100);
    CHECK_FALSE(Contents::adopt(same_files(*left.store)));
    Left other(1);
    if (offset > 24) continue;
    write_u64(other.store->files().groups, offset,
              read_u64(other.store->files().groups, offset) ^ 0x100);
    CHECK_FALSE(Contents::adopt(same_files(*other.store)));
  }
  // id_limit beyond the ids; not a whole chunk; too low, so that ids would be given out twice.
  for (const std::uint64_t limit :
       {self_checked(0xffff'f000), self_checked(100), std::uint64_t{0}}) {
    Left left(1);
    write_u64(left.store->files().contents, 64, limit);
    CHECK_FALSE(Contents::adopt(same_files(*left.store)));
  }
}

TEST_CASE("take-overs are counted in the store, and damage there refuses nothing") {
  Left left(1);
  CHECK(left.store->take_overs() == 0);
  left.store->note_take_over();
  for (std::uint32_t times = 1; times <= 3; ++times) {
    left.store = left.restart();
    CHECK(left.store->take_overs() == times);
    left.store->note_take_over();
    CHECK(left.store->take_overs() == times + 1);
  }
  // As a version left it that did not count, and damaged: counted from now on.
  for (const std::uint64_t bits : {std::uint64_t{0}, self_checked(7) ^ 0x100}) {
    write_u64(left.store->files().contents, 72, bits);
    left.store = left.restart();
    CHECK(left.store->take_overs() == 0);
    left.store->note_take_over();
    CHECK(left.store->take_overs() == 1);
  }
  write_u64(left.store->files().contents, 72, self_checked(0xffff'ffff));
  left.store = left.restart();
  left.store->note_take_over();
  CHECK(left.store->take_overs() == 0xffff'ffff);
}

TEST_CASE("a store of the version before pools is taken over, and gets no pool") {
  const auto relabel = [](const Contents& store, std::uint32_t version) {
    const auto contents = must(sys::Mapping::shared(store.files().contents, ByteCount{kPageSize}));
    auto& block = *contents.as<Superblock>();
    block.version = version;
    block.checksum = plain_checksum(
        {reinterpret_cast<const std::byte*>(&block), offsetof(Superblock, checksum)});
    const auto groups = must(sys::Mapping::shared(store.files().groups, ByteCount{kPageSize}));
    auto& head = *groups.as<GroupsHead>();
    head.version = version;
    head.checksum =
        plain_checksum({reinterpret_cast<const std::byte*>(&head), offsetof(GroupsHead, checksum)});
  };
  Left left(3);
  relabel(*left.store, kFormatWithoutPools);
  // Its words are of the version that all words have had since then.
  for (const auto& [number, id] : left.words)
    CHECK((read_u64(left.store->files().contents, where_offset(id)) >> 56 & 0xf) == 4);
  auto store = left.restart();
  for (const auto& [number, id] : left.words) {
    CHECK(holds(*store, id, page_of(number)));
    store->count(kFirstGroup, id);
  }
  must(store->finish_recovery());
  const auto pool = store->pool(kFirstGroup);
  REQUIRE_FALSE(pool.has_value());
  CHECK(pool.error().code == ENOTSUP);
  for (const std::uint32_t version : {kFormatWithoutPools - 1, kFormatVersion + 1}) {
    relabel(*store, version);
    CHECK_FALSE(Contents::adopt(same_files(*store)));
  }
}

TEST_CASE("files of two stores do not mix") {
  Left a(1);
  Left b(1);
  Contents::Files mixed = same_files(*a.store);
  mixed.groups = must(b.store->files().groups.duplicate());
  const auto adopted = Contents::adopt(std::move(mixed));
  CHECK_FALSE(adopted);
}

TEST_CASE("damaged headers are corrupt and leave the others alone") {
  const bool read_before = GENERATE(false, true);
  Left left(200);
  const sys::Fd& file = left.store->files().contents;
  const ContentId victim = left.words.at(17);
  const ContentId twin = left.words.at(18);
  const std::uint64_t where = read_u64(file, where_offset(victim));
  const std::uint64_t other = read_u64(file, where_offset(twin));
  std::uint64_t damaged = 0;
  SECTION("offset beyond the arena") { damaged = where | 0xf'ffff'0000; }
  SECTION("unknown form") { damaged = where | std::uint64_t{9} << 48; }
  SECTION("unknown version") { damaged = where | std::uint64_t{8} << 56; }
  SECTION("on disk, which this version does not know") { damaged = where | std::uint64_t{1} << 54; }
  SECTION("in a place that is none") { damaged = where | std::uint64_t{3} << 54; }
  SECTION("reserved bits") { damaged = where | std::uint64_t{1} << 63; }
  SECTION("not published") { damaged = where & ~(std::uint64_t{1} << 60); }
  SECTION("another's place") { damaged = other; }
  SECTION("a place in the middle of another's slab") { damaged = other ^ 1; }
  SECTION("another length") { damaged = where ^ (std::uint64_t{64} << 36); }
  write_u64(file, where_offset(victim), damaged);
  auto store = left.restart();
  PageCopy out;
  if (read_before) CHECK(store->get(kFirstGroup, victim, out.bytes.data(), {}) == Got::corrupt);
  for (const auto& [number, id] : left.words) store->count(kFirstGroup, id);
  must(store->finish_recovery());
  CHECK(store->get(kFirstGroup, victim, out.bytes.data(), {}) == Got::corrupt);
  for (const auto& [number, id] : left.words) {
    if (id != victim) REQUIRE(holds(*store, id, page_of(number)));
  }
  // New contents are never given the victim's id or anybody's bytes.
  std::vector<Ref> refs;
  for (std::uint64_t i = 1000; i < 3000; ++i) {
    refs.push_back(put(*store, left.group, page_of(i)).ref);
    REQUIRE(refs.back().id() != victim);
  }
  for (const auto& [number, id] : left.words) {
    if (id != victim) REQUIRE(holds(*store, id, page_of(number)));
  }
  for (std::uint64_t i = 1000; i < 3000; ++i) {
    REQUIRE(holds(*store, refs[i - 1000].id(), page_of(i)));
  }
  for (const auto& [number, id] : left.words) store->drop(kFirstGroup, id);
}

TEST_CASE("a where that changed by itself frees nothing, whichever bit it is") {
  constexpr std::uint64_t kEach = 20;
  for (const std::size_t noise : {std::size_t{900}, kPageSize}) {
    for (unsigned bit = 0; bit < 64; ++bit) {
      INFO("bit " << bit << ", noise " << noise);
      auto store = must(Contents::create(ByteCount{8u << 20}));
      GroupUse a = must(store->group("a"));
      GroupUse b = must(store->group("b"));
      std::vector<ContentId> mine, others;
      // In turns, so that the neighbours of a slot are another group's.
      for (std::uint64_t i = 0; i < kEach; ++i) {
        mine.push_back(put(*store, a, page_of(i, noise)).ref.release());
        others.push_back(put(*store, b, page_of(100 + i, noise)).ref.release());
      }
      const sys::Fd& file = store->files().contents;
      const ContentId damaged = mine[kEach / 2];
      const std::uint64_t at = where_offset(damaged);
      write_u64(file, at, read_u64(file, at) ^ std::uint64_t{1} << bit);
      CHECK(store->drop(a, damaged) == Booked::done);
      mine.erase(mine.begin() + kEach / 2);
      const auto others_are_there = [&](Contents& in) {
        for (std::uint64_t i = 0; i < kEach; ++i) {
          REQUIRE(holds(in, others[i], page_of(100 + i, noise), b));
        }
        for (std::uint64_t i = 0; i + 1 < kEach; ++i) {
          REQUIRE(holds(in, mine[i], page_of(i < kEach / 2 ? i : i + 1, noise), a));
        }
      };
      // What was freed would be given out and written over.
      for (std::uint64_t i = 0; i < 3 * kEach; ++i) {
        others.push_back(put(*store, b, page_of(100 + kEach + i, noise)).ref.release());
      }
      others_are_there(*store);
      CHECK_FALSE(store->is_stopped(b));
      // The next daemon builds its maps from the headers.
      auto next = must(Contents::adopt(same_files(*store)));
      a = must(next->group("a"));
      b = must(next->group("b"));
      for (const ContentId id : mine) CHECK(next->count(a, id) == Booked::done);
      for (const ContentId id : others) CHECK(next->count(b, id) == Booked::done);
      must(next->finish_recovery());
      others_are_there(*next);
      for (const ContentId id : mine) CHECK(next->drop(a, id) == Booked::done);
      for (const ContentId id : others) CHECK(next->drop(b, id) == Booked::done);
      CHECK(next->stats().arena_in_slots.value == 0);
      CHECK_FALSE(next->is_stopped(a));
      CHECK_FALSE(next->is_stopped(b));
    }
  }
}
