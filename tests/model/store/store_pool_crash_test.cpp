// SPDX-License-Identifier: GPL-2.0-or-later
// SIGKILL while contents move into the pool and back, while slots are mapped, unmapped and punched,
// and in recovery. Words and mappings are in shared memory, as the page tables of guests and
// /proc/PID/maps would be. A mapping is entered after share_run() returned and cleared before
// unmap(). Whatever happens, a slot that is mapped has the bytes of its page.
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "greedy.hpp"
#include "killed.hpp"
#include "pages.hpp"
#include "random.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr std::size_t kWorkers = 2;
constexpr std::size_t kWordsEach = 300;
constexpr std::uint64_t kPages = 150;  // several words name each

// A page of a guest. word: 32 bits of page number, 32 of content; 0 names nothing. slot: the slot
// that the page maps; 0: none.
struct Page {
  std::atomic<std::uint64_t> word;
  std::atomic<std::uint32_t> slot;
};
using Pages = std::array<Page, kWorkers * kWordsEach>;

constexpr std::uint64_t number_of(std::uint64_t word) { return word >> 32; }
constexpr ContentId id_of(std::uint64_t word) {
  return ContentId{static_cast<std::uint32_t>(word)};
}

bool maps_its_page(int pool, const Page& page) {
  return slot_holds(pool, PoolSlot{page.slot}, any_page(number_of(page.word)));
}

void unmap(Contents& store, GroupId group, Page& page) {
  const std::uint32_t slot = page.slot.exchange(0);
  if (slot != 0 && store.unmap(group, PoolSlot{slot}) != Booked::done) ::_exit(10);
}

void map_some(Contents& store, GroupId group, std::span<Page> own, Random& random) {
  std::vector<Page*> pages;
  std::vector<ContentId> ids;
  for (std::size_t n = random.below(12) + 1; n != 0; --n) {
    Page& page = own[random.below(own.size())];
    if (page.word == 0 || page.slot != 0) continue;
    if (std::find(pages.begin(), pages.end(), &page) != pages.end()) continue;
    pages.push_back(&page);
    ids.push_back(id_of(page.word));
  }
  std::vector<Result<PoolSlot>> slots(ids.size());
  store.share_run(group, ids, slots);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (slots[i]) {
      pages[i]->slot = slots[i]->value;
    } else if (slots[i].error().code != EPERM) {
      ::_exit(11);
    }
  }
}

void work(Contents& store, GroupId group, std::span<Page> own, int pool, std::uint64_t seed) {
  Random random(seed);
  for (;;) {
    Page& page = own[random.below(own.size())];
    if (random.one_in(4)) {
      map_some(store, group, own, random);
    } else if (page.slot != 0) {
      if (!maps_its_page(pool, page)) ::_exit(12);
      unmap(store, group, page);
    } else if (const std::uint64_t seen = page.word.exchange(0); seen != 0) {
      if (store.drop(group, id_of(seen)) != Booked::done) ::_exit(13);
    } else {
      const std::uint64_t number = random.below(kPages) + 1;
      auto result = store.put(group, any_page(number), store.hash(group, any_page(number)));
      if (!result) ::_exit(3);
      page.word = number << 32 | result->ref.release().value;
    }
  }
}

// False: a word or a mapping was refused.
bool recover(Contents& store, GroupId group, const Pages& pages) {
  bool all = true;
  for (const Page& page : pages) {
    if (page.word == 0) continue;
    all &= store.count(group, id_of(page.word)) == Booked::done;
    if (page.slot == 0) continue;
    all &= store.note_mapping(group, id_of(page.word), PoolSlot{page.slot}) == Booked::done;
  }
  return store.finish_recovery() && store.mappings_known(group) && all;
}

[[noreturn]] void live(Contents::Files files, Pages& pages, std::uint64_t seed) {
  const sys::Fd pool = must(files.pools.at(0).file.duplicate());
  auto adopted = Contents::adopt(std::move(files));
  if (!adopted) ::_exit(4);
  Contents& store = **adopted;
  const auto group = store.group("a");
  if (!group) ::_exit(6);
  if (!recover(store, *group, pages)) ::_exit(5);
  std::vector<std::thread> threads;
  threads.reserve(kWorkers + 1);
  for (std::size_t t = 0; t < kWorkers; ++t) {
    threads.emplace_back([&, t] {
      work(store, *group, std::span(pages).subspan(t * kWordsEach, kWordsEach), pool.get(),
           mix(seed + t));
    });
  }
  threads.emplace_back([&] {
    for (;;) store.trim();
  });
  auto reformer = Reformer::make(store);
  if (!reformer) ::_exit(7);
  for (std::uint64_t now = 1000;; now += 1000) (void)(*reformer)->step(greedy(), now, 5'000'000);
}

void live_and_die(const Contents::Files& files, Pages& pages, const Death& how, Random& random) {
  Contents::Files mine = copy_of(files);
  const std::uint64_t seed = random.next();
  live_and_die(how, random, [&] { live(std::move(mine), pages, seed); });
}

std::uint64_t mappings_seen = 0;

void verify(const Contents::Files& files, const Pages& pages) {
  const int pool = files.pools.at(0).file.get();
  GroupUse group;  // outlives the store, so it is not wiped
  auto store = must(Contents::adopt(copy_of(files)));
  group = must(store->group("a"));
  std::set<std::uint32_t> mapped;
  const auto all_hold = [&] {
    for (const Page& page : pages) {
      if (page.word == 0) continue;
      REQUIRE(holds(*store, id_of(page.word), any_page(number_of(page.word)), group));
      if (page.slot != 0) REQUIRE(maps_its_page(pool, page));
    }
  };
  all_hold();
  REQUIRE(recover(*store, group, pages));
  all_hold();
  store->trim_all();
  all_hold();
  std::set<std::uint64_t> named;
  std::uint64_t mappings = 0;
  for (const Page& page : pages) {
    if (page.word != 0) named.insert(number_of(page.word));
    if (page.slot != 0) mapped.insert(page.slot);
    mappings += page.slot != 0;
  }
  mappings_seen += mappings;
  const Stats stats = store->stats();
  CHECK(stats.pool_mappings == mappings);
  CHECK(stats.corrupt + stats.unindexed + stats.miscounted == 0);
  // Nothing but what is mapped, and contents in the pool that are shared and not mapped.
  struct stat st{};
  REQUIRE(::fstat(pool, &st) == 0);
  CHECK(stats.pool_allocated.value == static_cast<std::uint64_t>(st.st_blocks) * 512);
  CHECK(stats.pool_allocated.value <= stats.pool_stored.value + (1 + mapped.size()) * kPageSize);
  CHECK(stats.pool_stored.value <= (named.size() + sums_of(stats).referring) * kPageSize);
}

// A store whose group has a pool, as the keeper holds it.
Contents::Files with_pool() {
  GroupUse group;
  auto store = must(Contents::create(ByteCount{64u << 20}));
  group = must(store->group("a"));
  (void)must(store->pool(group));
  // A content keeps the group for the first daemon.
  (void)put(*store, group, any_page(1)).ref.release();
  return same_files(*store);
}

}  // namespace

TEST_CASE("D10, D12: a kill at every point of the pool leaves every mapped slot its page") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  const Contents::Files files = with_pool();
  const Shared<Pages> shared;
  constexpr const char* kPoints[] = {"store.pool.write", "store.pool.filled",   "store.pool.switch",
                                     "store.pool.back",  "store.pool.returned", "store.pool.punch",
                                     "reform.free",      "recovery.store.pool"};
  for (int round = 0; round < 4; ++round) {
    for (const char* point : kPoints) {
      CAPTURE(round, point);
      const bool is_once = std::strstr(point, "recovery") != nullptr;
      const auto hits = is_once ? 1 : static_cast<std::int64_t>(random.below(200)) + 1;
      live_and_die(files, *shared, {point, hits}, random);
      verify(files, *shared);
    }
  }
  CHECK(mappings_seen > 0);
}

TEST_CASE("D10: kills at random moments leave every mapped slot its page") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run()));
  const Contents::Files files = with_pool();
  const Shared<Pages> shared;
  for (int i = 0; i < 40; ++i) {
    live_and_die(files, *shared, {}, random);
    if (i % 4 == 0) verify(files, *shared);
  }
  verify(files, *shared);
}
