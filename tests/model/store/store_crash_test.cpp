// SPDX-License-Identifier: GPL-2.0-or-later
// What only test points can show. SIGKILL while the store works, at each test point and at random
// moments; then its files are adopted and every word's bytes compared. The words are in shared
// memory as a page table would be: a word is written after put() returned and cleared before
// drop().
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/test_points.hpp"
#include "greedy.hpp"
#include "killed.hpp"
#include "pages.hpp"
#include "random.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr std::size_t kThreads = 3;  // the last of them has VMs come and go, a group each
constexpr std::size_t kWordsPerThread = 1000;
constexpr std::uint64_t kPages = 3000;
using Words = std::array<std::atomic<std::uint64_t>, kThreads * kWordsPerThread>;
constexpr std::size_t kWordsPerVm = 8;

// A word: from the highest, 16 bits of page number, 16 of group, 32 of content; 0 names nothing.
constexpr std::uint64_t word_of(std::uint64_t page, GroupId group, ContentId id) {
  return page << 48 | std::uint64_t{group.value} << 32 | id.value;
}
constexpr std::uint64_t page_of_word(std::uint64_t word) { return word >> 48; }
constexpr GroupId group_of(std::uint64_t word) {
  return GroupId{static_cast<std::uint16_t>(word >> 32)};
}
constexpr ContentId id_of(std::uint64_t word) {
  return ContentId{static_cast<std::uint32_t>(word)};
}

void change_words(Contents& store, GroupId group, Words& words, std::size_t thread,
                  std::uint64_t seed) {
  Random random(seed);
  for (;;) {
    auto& word = words[thread * kWordsPerThread + random.below(kWordsPerThread)];
    const std::uint64_t seen = word.load();
    if (seen != 0) {
      word.store(0);
      store.drop(group_of(seen), id_of(seen));
      continue;
    }
    const std::uint64_t number = random.below(kPages) + 1;
    auto result = store.put(group, any_page(number), store.hash(group, any_page(number)));
    if (!result) ::_exit(3);
    word.store(word_of(number, group, result->ref.release()));
  }
}

void drop_word(Contents& store, std::atomic<std::uint64_t>& word) {
  const std::uint64_t seen = word.exchange(0);
  if (seen != 0) store.drop(group_of(seen), id_of(seen));
}

// A VM of an earlier life may have left words. Pages that no other group has.
void come_and_go(Contents& store, Words& words, std::uint64_t seed) {
  Random random(seed);
  const std::span own = std::span(words).last(kWordsPerThread).first(kWordsPerVm);
  for (;;) {
    for (auto& word : own) drop_word(store, word);
    auto group = store.group("vm:" + std::to_string(random.next()));
    if (!group) ::_exit(8);
    for (auto& word : own) {
      const std::uint64_t number = kPages + 1 + random.below(kPages);
      auto result = store.put(*group, any_page(number), store.hash(*group, any_page(number)));
      if (!result) ::_exit(9);
      word.store(word_of(number, group->id(), result->ref.release()));
      if (random.one_in(4)) drop_word(store, word);
    }
    if (random.one_in(2)) group->reset();
    for (auto& word : own) drop_word(store, word);
  }
}

void count_all(Contents& store, const Words& words) {
  for (const auto& word : words) {
    const std::uint64_t seen = word.load();
    if (seen != 0) store.count(group_of(seen), id_of(seen));
  }
}

// The daemon's life: recover, then work until killed.
[[noreturn]] void live(Contents::Files files, Words& words, std::uint64_t seed) {
  auto adopted = Contents::adopt(std::move(files));
  if (!adopted) ::_exit(4);
  Contents& store = **adopted;
  count_all(store, words);
  if (!store.finish_recovery()) ::_exit(5);
  const auto group = store.group("a");
  if (!group) ::_exit(6);
  std::vector<std::thread> threads;
  threads.emplace_back([&] { come_and_go(store, words, mix(seed)); });
  for (std::size_t t = 0; t + 1 < kThreads; ++t) {
    threads.emplace_back([&, t] { change_words(store, *group, words, t, mix(seed + 1 + t)); });
  }
  auto reformer = Reformer::make(store);
  if (!reformer) ::_exit(7);
  ReformPolicy policy = greedy();
  // As they are stored, so many are of one size that slabs run half empty.
  const char* const point = death.point;
  policy.similar = policy.dense = point == nullptr || std::strcmp(point, "reform.moved") != 0;
  for (std::uint64_t now = 1000;; now += 1000) (void)(*reformer)->step(policy, now, 5'000'000);
}

void live_and_die(const Contents::Files& files, Words& words, const Death& how, Random& random) {
  Contents::Files mine = copy_of(files);
  const std::uint64_t seed = random.next();
  live_and_die(how, random, [&] { live(std::move(mine), words, seed); });
}

std::uint64_t referring_seen = 0;

// Every byte, before recovery and after it, and not one content too many.
void verify(const Contents::Files& files, const Words& words) {
  auto store = must(Contents::adopt(copy_of(files)));
  const auto all_hold = [&] {
    for (const auto& word : words) {
      const std::uint64_t seen = word.load();
      if (seen != 0)
        REQUIRE(holds(*store, id_of(seen), any_page(page_of_word(seen)), group_of(seen)));
    }
  };
  all_hold();
  count_all(*store, words);
  must(store->finish_recovery());
  all_hold();
  std::set<std::uint64_t> distinct;
  std::uint64_t references = 0;
  for (const auto& word : words) {
    if (word.load() == 0) continue;
    distinct.insert(word.load() >> 32);
    ++references;
  }
  const Stats stats = store->stats();
  const Sums sums = sums_of(stats);
  CHECK(sums.references == references);
  referring_seen += sums.referring;
  CHECK(sums.contents >= distinct.size());  // and what others refer to
  CHECK(sums.contents <= distinct.size() + sums.referring);
  CHECK(stats.corrupt + stats.unindexed + stats.miscounted == 0);
  // That of the words that stay, and that of the VM that was there.
  CHECK(stats.groups.size() <= 2);
  for (const GroupStats& group : stats.groups) {
    CHECK(std::ranges::any_of(group.forms, [](const FormStats& f) { return f.contents != 0; }));
    CHECK_FALSE(group.name.empty());
  }
}

// Which time the point is reached: late enough to be in the thick of it, soon enough to come.
std::int64_t hits_of(const char* point, Random& random) {
  if (std::strstr(point, "sweep") != nullptr) return 1;
  const bool is_rare =
      std::strstr(point, "reform.") != nullptr || std::strstr(point, "group") != nullptr;
  return static_cast<std::int64_t>(random.below(is_rare ? 30 : 2000)) + 1;
}

}  // namespace

TEST_CASE("a kill at every point of the store loses and changes nothing") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  auto first = must(Contents::create(ByteCount{64u << 20}));
  const Contents::Files files = same_files(*first);
  first.reset();
  const Shared<Words> shared;
  constexpr const char* kPoints[] = {"store.alloc",          "store.write",
                                     "store.publish",        "store.index",
                                     "store.drop",           "store.drop.cleared",
                                     "store.group.write",    "store.group.made",
                                     "store.group.wipe",     "recovery.store.references",
                                     "recovery.store.index", "recovery.store.sweep",
                                     "reform.write",         "reform.reference",
                                     "reform.switch",        "reform.moved",
                                     "reform.free"};
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds; ++round) {
    for (const char* point : kPoints) {
      CAPTURE(round, point);
      // A kill between put() and its word leaves something to sweep for the next point.
      if (std::strcmp(point, "recovery.store.sweep") == 0) {
        live_and_die(files, *shared, {"store.index", 50}, random);
      }
      live_and_die(files, *shared, {point, hits_of(point, random)}, random);
      verify(files, *shared);
    }
  }
  CHECK(referring_seen > 0);
}

TEST_CASE("kills at random moments, also in recovery, lose and change nothing") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run()));
  auto first = must(Contents::create(ByteCount{64u << 20}));
  const Contents::Files files = same_files(*first);
  first.reset();
  const Shared<Words> shared;
  for (int i = 0; i < 60; ++i) {
    live_and_die(files, *shared, {}, random);
    if (i % 3 == 0) verify(files, *shared);
  }
  verify(files, *shared);
}

namespace {

std::atomic<bool> reader_waits{false};
std::atomic<bool> reader_may_go{false};

void wait_in_get(const char* name) {
  if (std::strcmp(name, "store.get") != 0) return;
  reader_waits = true;
  while (!reader_may_go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

TEST_CASE("bytes stay where a reader has found them until it is through") {
  auto store = must(Contents::create(ByteCount{4u << 20}));
  const GroupUse group = must(store->group("a"));
  const PageCopy page = table_of(1);
  const ContentId id = put(*store, group, page).ref.release();
  auto reformer = must(Reformer::make(*store));
  ReformPolicy policy = greedy();

  test_point_hook.store(wait_in_get);
  PageCopy out;
  std::thread reader([&] { (void)store->get(kFirstGroup, id, out.bytes.data(), {}); });
  while (!reader_waits) std::this_thread::yield();
  test_point_hook.store(nullptr);
  std::atomic<bool> stepped{false};
  std::thread reforming([&] {
    (void)reformer->step(policy, 1000, 60'000'000'000);
    stepped = true;
  });
  while (reformer->figures().given[static_cast<std::size_t>(Form::zstd)] == 0)
    std::this_thread::yield();
  CHECK(holds(*store, id, page));  // others read the new bytes meanwhile
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK_FALSE(stepped);
  reader_may_go = true;
  reader.join();
  reforming.join();
  CHECK(out.bytes == page.bytes);
  CHECK(store->stats().arena_in_slots.value < 4096);
}
