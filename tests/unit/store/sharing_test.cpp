// SPDX-License-Identifier: GPL-2.0-or-later
// Contents that lie in the pool of their group.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <vector>

#include "greedy.hpp"
#include "header_words.hpp"
#include "pages.hpp"
#include "store/layout.hpp"
#include "store/parts.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};
constexpr std::uint64_t kLongNs = 60'000'000'000;

struct Rig {
  std::unique_ptr<Contents> store = must(Contents::create(kArena));
  GroupUse group = must(store->group("a"));
  Contents::PoolFiles files = must(store->pool(group));

  // A content that this many pages name.
  ContentId stored(const PageCopy& page, int pages = 2) {
    ContentId id{};
    for (int i = 0; i < pages; ++i) id = put(*store, group, page).ref.release();
    return id;
  }
  Result<PoolSlot> share(ContentId id) {
    Result<PoolSlot> out;
    store->share_run(group, {&id, 1}, {&out, 1});
    return out;
  }
  // As a QEMU sees it.
  bool reads(PoolSlot slot, const PageCopy& page) const {
    return slot_holds(files.read_only.get(), slot, page);
  }
  std::uint64_t pool_bytes() const {
    struct stat st{};
    REQUIRE(::fstat(files.kept.file.get(), &st) == 0);
    return static_cast<std::uint64_t>(st.st_blocks) * 512;
  }
  void restart() {
    auto next = must(Contents::adopt(same_files(*store)));
    group = must(next->group("a"));
    store = std::move(next);
  }
};

int code_of(const Result<PoolSlot>& result) { return result ? 0 : result.error().code; }

}  // namespace

TEST_CASE("a content of any form moves into the pool, and is read, found and dropped there") {
  Rig rig;
  std::vector<PageCopy> pages;
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < 40; ++i) {
    pages.push_back(any_page(i + 1));
    ids.push_back(rig.stored(pages.back()));
  }
  auto reformer = must(Reformer::make(*rig.store));
  (void)reformer->step(greedy(), 1000, kLongNs);
  REQUIRE(sums_of(rig.store->stats()).referring > 0);
  std::vector<Result<PoolSlot>> slots(ids.size());
  rig.store->share_run(rig.group, ids, slots);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    REQUIRE(slots[i]);
    if (i > 0) CHECK(slots[i]->value == slots[i - 1]->value + 1);  // one range of memory
    CHECK(rig.reads(*slots[i], pages[i]));
    CHECK(holds(*rig.store, ids[i], pages[i]));
    CHECK(rig.store->form(ids[i]) == Form::raw);
    const PutResult again = put(*rig.store, rig.group, pages[i]);
    CHECK(again.existed);
    CHECK(again.ref.id() == ids[i]);
  }
  const Stats stats = rig.store->stats();
  CHECK(stats.arena_stored.value == 0);
  CHECK(stats.arena_in_slots.value == 0);
  CHECK(stats.pool_stored.value == ids.size() * kPageSize);
  CHECK(stats.pool_allocated.value == rig.pool_bytes());
  CHECK(stats.pool_mappings == ids.size());
  CHECK(stats.groups.at(0).pool_allocated == stats.pool_allocated);
  CHECK(stats.forms[1].references == 2 * ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    CHECK(rig.store->unmap(rig.group, *slots[i]) == Booked::done);
    for (int n = 0; n < 2; ++n) CHECK(rig.store->drop(rig.group, ids[i]) == Booked::done);
  }
  rig.store->trim();
  CHECK(rig.pool_bytes() == kPageSize);
  CHECK(rig.store->stats().miscounted == 0);
}

TEST_CASE("a page that nobody shares never lies in the pool") {
  Rig rig;
  const ContentId alone = rig.stored(any_page(1), 1);
  CHECK(code_of(rig.share(alone)) == EPERM);
  // What refers to a content is no page that shares it.
  std::vector<ContentId> family;
  for (std::uint64_t i = 0; i < 8; ++i) family.push_back(rig.stored(kin_of(5, i), 1));
  auto reformer = must(Reformer::make(*rig.store));
  (void)reformer->step(greedy(), 1000, kLongNs);
  REQUIRE(sums_of(rig.store->stats()).referring > 0);
  for (const ContentId id : family) CHECK(code_of(rig.share(id)) == EPERM);
  CHECK(rig.pool_bytes() == kPageSize);
  CHECK(rig.store->stats().pool_mappings == 0);
}

TEST_CASE("a content that is shared no more leaves the pool when nobody maps it") {
  Rig rig;
  const PageCopy page = page_of(1, kPageSize);
  const ContentId id = rig.stored(page);
  const PoolSlot slot = must(rig.share(id));
  CHECK(rig.store->drop(rig.group, id) == Booked::done);
  rig.store->trim();
  CHECK(rig.reads(slot, page));  // one page maps it yet
  CHECK(rig.store->unmap(rig.group, slot) == Booked::done);
  rig.store->trim();
  CHECK(rig.pool_bytes() == kPageSize);
  CHECK(rig.store->stats().pool_stored.value == 0);
  CHECK(rig.store->stats().arena_stored.value == kPageSize);
  CHECK(holds(*rig.store, id, page));
  CHECK(code_of(rig.share(id)) == EPERM);
  CHECK(put(*rig.store, rig.group, page).ref.id() == id);
}

TEST_CASE(
    "a content that two pages name stays in the pool, and gets a denser form when it is cold") {
  Rig rig;
  const PageCopy page = table_of(3);
  const ContentId id = rig.stored(page);
  const PoolSlot slot = must(rig.share(id));
  auto reformer = must(Reformer::make(*rig.store));
  (void)reformer->step(greedy(), 1000, kLongNs);
  CHECK(rig.store->form(id) == Form::raw);  // mapped: it has its memory anyway
  CHECK(rig.store->unmap(rig.group, slot) == Booked::done);
  rig.store->trim();
  CHECK(rig.reads(slot, page));
  (void)reformer->step(greedy(), 2000, kLongNs);
  CHECK(rig.store->form(id) != Form::raw);
  rig.store->trim();
  CHECK(rig.pool_bytes() == kPageSize);
  CHECK(holds(*rig.store, id, page));
  // And back again.
  CHECK(rig.reads(must(rig.share(id)), page));
}

TEST_CASE("the 257th mapping of a content gets a second slot with the same bytes") {
  Rig rig;
  const PageCopy page = any_page(2);
  const ContentId id = rig.stored(page, 600);
  std::map<std::uint32_t, int> mappings;
  for (int i = 0; i < 600; ++i) ++mappings[must(rig.share(id)).value];
  CHECK(mappings.size() == 3);
  for (const auto& [slot, count] : mappings) {
    CHECK(count <= 256);
    CHECK(rig.reads(PoolSlot{slot}, page));
    for (int i = 0; i < count; ++i) {
      CHECK(rig.store->unmap(rig.group, PoolSlot{slot}) == Booked::done);
    }
  }
  rig.store->trim();
  CHECK(rig.pool_bytes() == 2 * kPageSize);
}

TEST_CASE("one call that names a content twice counts two mappings of one slot") {
  Rig rig;
  const ContentId id = rig.stored(any_page(2));
  const std::array ids{id, id};
  std::array<Result<PoolSlot>, 2> out;
  rig.store->share_run(rig.group, ids, out);
  REQUIRE(out[0]);
  REQUIRE(out[1]);
  CHECK(*out[0] == *out[1]);
  CHECK(rig.store->stats().pool_mappings == 2);
}

TEST_CASE("the page of zeros, another group's content and a group without a pool are refused") {
  Rig rig;
  const GroupUse other = must(rig.store->group("b"));
  const ContentId others = put(*rig.store, other, any_page(1)).ref.release();
  CHECK(code_of(rig.share(kZeroContent)) == EINVAL);
  CHECK(code_of(rig.share(others)) == EINVAL);
  Result<PoolSlot> out;
  rig.store->share_run(other, {&others, 1}, {&out, 1});
  CHECK(code_of(out) == ENOENT);
  rig.store->share_run(GroupId{77}, {&others, 1}, {&out, 1});
  CHECK(code_of(out) == EINVAL);
}

TEST_CASE("a mapping that is given up twice stops its group, and nothing of the pool is freed") {
  Rig rig;
  const GroupUse other = must(rig.store->group("b"));
  const std::array ids{rig.stored(any_page(1)), rig.stored(any_page(2))};
  const std::array slots{must(rig.share(ids[0])), must(rig.share(ids[1]))};
  CHECK(rig.store->unmap(rig.group, slots[0]) == Booked::done);
  CHECK_FALSE(rig.store->is_stopped(rig.group));
  SECTION("of a slot") { CHECK(rig.store->unmap(rig.group, slots[0]) == Booked::refused); }
  SECTION("of a slot that was never used") {
    CHECK(rig.store->unmap(rig.group, PoolSlot{1000}) == Booked::refused);
  }
  CHECK(rig.store->is_stopped(rig.group));
  CHECK_FALSE(rig.store->is_stopped(other));
  CHECK(rig.store->stats().miscounted == 1);
  CHECK(code_of(rig.share(ids[0])) == EUCLEAN);
  // The mapping that was given up once too often may be that of a page that still maps its slot.
  CHECK(rig.store->unmap(rig.group, slots[1]) == Booked::done);
  CHECK(rig.store->drop(rig.group, ids[0]) == Booked::done);
  for (int n = 0; n < 2; ++n) CHECK(rig.store->drop(rig.group, ids[1]) == Booked::done);
  rig.store->trim_all();
  CHECK(rig.reads(slots[0], any_page(1)));
  CHECK(rig.reads(slots[1], any_page(2)));
  CHECK_FALSE(put(*rig.store, other, any_page(3)).existed);
  rig.restart();
  CHECK(rig.store->count(rig.group, ids[0]) == Booked::done);
  must(rig.store->finish_recovery());
  must(rig.store->mappings_known(rig.group));
  rig.store->trim_all();
  CHECK_FALSE(rig.store->is_stopped(rig.group));
  CHECK(rig.pool_bytes() == kPageSize);
  CHECK(holds(*rig.store, ids[0], any_page(1)));
}

TEST_CASE("a mapping that is noted when it is too late stops its group") {
  Rig rig;
  const ContentId id = rig.stored(any_page(1));
  const PoolSlot slot = must(rig.share(id));
  const auto noted = rig.store->note_mapping(rig.group, id, slot);
  REQUIRE_FALSE(noted);
  CHECK(noted.error().code == EOVERFLOW);
  CHECK(rig.store->is_stopped(rig.group));
}

TEST_CASE("a slot that is wrong in the list of slots to punch stops its group") {
  Rig rig;
  const ContentId id = rig.stored(any_page(1));
  const PoolSlot slot = must(rig.share(id));
  Contents::Files files = same_files(*rig.store);
  auto parts = must(Parts::open(files, nullptr));
  must(parts->adopt_pools(std::move(files.pools)));
  parts->phase.store(Phase::ready);
  Pool* const pool = parts->pools.find(rig.group);
  REQUIRE(pool != nullptr);
  must(pool->mappings_known());  // nobody has claimed the slot
  REQUIRE(pool->claim(slot, id));
  CHECK_FALSE(parts->is_stopped(rig.group));
  parts->tend_pools(100);
  CHECK(parts->is_stopped(rig.group));
  CHECK(parts->miscounted.get() == 1);
  CHECK(rig.reads(slot, any_page(1)));
}

TEST_CASE("after a restart slots that a header or a mapping names stay, and all others go") {
  Rig rig;
  std::vector<PageCopy> pages;
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < 6; ++i) {
    pages.push_back(any_page(i + 1));
    ids.push_back(rig.stored(pages.back()));
  }
  std::vector<Result<PoolSlot>> slots(ids.size());
  rig.store->share_run(rig.group, ids, slots);
  rig.restart();
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(holds(*rig.store, ids[i], pages[i]));
  for (std::size_t i = 0; i < 4; ++i) {
    for (int n = 0; n < 2; ++n) CHECK(rig.store->count(rig.group, ids[i]) == Booked::done);
  }
  CHECK(code_of(rig.share(ids[0])) == EAGAIN);
  CHECK(rig.store->mappings_known(rig.group).error().code == EAGAIN);
  // Content 4 is named by nobody, but a page maps its slot; 5 is neither.
  CHECK(rig.store->note_mapping(rig.group, ids[4], *slots[4]) == Booked::done);
  must(rig.store->finish_recovery());
  CHECK(rig.store->note_mapping(rig.group, ids[1], *slots[1]) == Booked::done);
  CHECK(rig.store->note_mapping(rig.group, ids[2], *slots[1]) == Booked::refused);  // other bytes
  rig.store->trim();
  CHECK(rig.pool_bytes() == 7 * kPageSize);  // nothing was punched yet
  CHECK(code_of(rig.share(rig.stored(any_page(50)))) == EAGAIN);
  must(rig.store->mappings_known(rig.group));
  rig.store->trim();
  CHECK(rig.pool_bytes() == 6 * kPageSize);
  CHECK(rig.reads(*slots[4], pages[4]));
  CHECK(rig.store->unmap(rig.group, *slots[4]) == Booked::done);
  rig.store->trim();
  CHECK(rig.pool_bytes() == 5 * kPageSize);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(holds(*rig.store, ids[i], pages[i]));
    CHECK(rig.reads(*slots[i], pages[i]));
    CHECK(put(*rig.store, rig.group, pages[i]).ref.id() == ids[i]);
  }
}

TEST_CASE("a pool that is lost, or another's, costs its contents and nothing else") {
  Rig rig;
  const PageCopy shared = any_page(1);
  const PageCopy kept = any_page(2);
  const ContentId lost = rig.stored(shared);
  const ContentId safe = rig.stored(kept);
  (void)must(rig.share(lost));
  Contents::Files files = same_files(*rig.store);
  REQUIRE(files.pools.size() == 1);
  SECTION("lost") { files.pools.clear(); }
  SECTION("another's") {
    Rig other;
    files.pools = must(other.store->pool_files());
  }
  auto store = must(Contents::adopt(std::move(files)));
  const GroupUse group = must(store->group("a"));
  PageCopy out;
  CHECK(store->get(group, lost, out.bytes.data(), {}) == Got::corrupt);
  CHECK(holds(*store, safe, kept));
  for (int n = 0; n < 2; ++n) {
    CHECK(store->count(group, lost) == Booked::done);
    CHECK(store->count(group, safe) == Booked::done);
  }
  must(store->finish_recovery());
  CHECK(store->get(group, lost, out.bytes.data(), {}) == Got::corrupt);
  const PutResult anew = put(*store, group, shared);
  CHECK_FALSE(anew.existed);
  CHECK(holds(*store, anew.ref.id(), shared));
}

TEST_CASE("damaged bytes in the pool are corrupt, and are not mapped once more") {
  Rig rig;
  const ContentId id = rig.stored(any_page(1));
  const PoolSlot slot = must(rig.share(id));
  write_u64(rig.files.kept.file, std::uint64_t{slot.value} * kPageSize + 64, 0x0bad'0bad'0bad'0bad);
  PageCopy out;
  CHECK(rig.store->get(rig.group, id, out.bytes.data(), {}) == Got::corrupt);
  CHECK(code_of(rig.share(id)) == EUCLEAN);
  CHECK(rig.store->unmap(rig.group, slot) == Booked::done);
  CHECK(rig.store->drop(rig.group, id) == Booked::done);
  CHECK(rig.store->drop(rig.group, id) == Booked::done);
  CHECK_FALSE(put(*rig.store, rig.group, any_page(1)).existed);
  CHECK_FALSE(rig.store->is_stopped(rig.group));
}

TEST_CASE("a place in the pool that changed by itself frees nothing, whichever bit it is") {
  for (unsigned bit = 0; bit < 64; ++bit) {
    INFO("bit " << bit);
    Rig rig;
    std::vector<ContentId> ids;
    for (std::uint64_t i = 0; i < 4; ++i) {
      ids.push_back(rig.stored(any_page(i + 1)));
      (void)must(rig.share(ids.back()));
    }
    const sys::Fd& file = rig.store->files().contents;
    const std::uint64_t at = where_offset(ids[1]);
    write_u64(file, at, read_u64(file, at) ^ std::uint64_t{1} << bit);
    for (int n = 0; n < 2; ++n) (void)rig.store->drop(rig.group, ids[1]);
    rig.store->trim();
    for (std::uint64_t i = 10; i < 20; ++i) (void)must(rig.share(rig.stored(any_page(i))));
    for (const std::uint64_t i : {0, 2, 3}) REQUIRE(holds(*rig.store, ids[i], any_page(i + 1)));
    CHECK_FALSE(rig.store->is_stopped(rig.group));
    rig.restart();
    for (const std::uint64_t i : {0, 2, 3}) {
      for (int n = 0; n < 2; ++n) CHECK(rig.store->count(rig.group, ids[i]) == Booked::done);
    }
    must(rig.store->finish_recovery());
    must(rig.store->mappings_known(rig.group));
    rig.store->trim_all();
    for (const std::uint64_t i : {0, 2, 3}) REQUIRE(holds(*rig.store, ids[i], any_page(i + 1)));
  }
}

TEST_CASE("a pool ends with its group, and the next group of that number has another") {
  Rig rig;
  const GroupId number = rig.group;
  const ContentId id = rig.stored(any_page(1));
  (void)must(rig.share(id));
  for (int n = 0; n < 2; ++n) (void)rig.store->drop(number, id);
  auto stale = must(rig.store->pool_files());
  rig.group.reset();
  CHECK(must(rig.store->pool_files()).empty());
  rig.store->trim();
  CHECK(rig.store->stats().pool_allocated.value == 0);
  rig.group = must(rig.store->group("b"));
  REQUIRE(rig.group.id() == number);
  // A keeper that has not forgotten the old one hands it over with the next daemon's files.
  Contents::Files files = same_files(*rig.store);
  CHECK(files.pools.empty());
  files.pools = std::move(stale);
  auto store = must(Contents::adopt(std::move(files)));
  CHECK(must(store->pool_files()).empty());
}

TEST_CASE("a process that hands its store over gives out and punches nothing any more") {
  Rig rig;
  const ContentId id = rig.stored(any_page(1));
  const PoolSlot slot = must(rig.share(id));
  const GroupUse without_pool = must(rig.store->group("without a pool"));
  rig.store->hand_over();
  CHECK(code_of(rig.share(id)) == EAGAIN);
  CHECK(rig.store->unmap(rig.group, slot) == Booked::done);
  rig.store->trim_all();
  CHECK(rig.reads(slot, any_page(1)));
  const auto pool = rig.store->pool(without_pool);
  REQUIRE_FALSE(pool);
  CHECK(pool.error().code == EAGAIN);
}
