// SPDX-License-Identifier: GPL-2.0-or-later
// Groups come with their first user and go with their last user and content.
#include <unistd.h>
#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <ranges>
#include <string>
#include <vector>

#include "greedy.hpp"
#include "pages.hpp"
#include "store/layout.hpp"
#include "store/reform/reformer.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};

GroupEntry entry_of(const Contents& store, GroupId group) {
  GroupEntry entry;
  const auto at = static_cast<off_t>(kPageSize + group.value * sizeof entry);
  REQUIRE(::pread(store.files().groups.get(), &entry, sizeof entry, at) == sizeof entry);
  return entry;
}
bool is_wiped(const Contents& store, GroupId group) {
  const GroupEntry entry = entry_of(store, group);
  const auto* const bytes = reinterpret_cast<const unsigned char*>(&entry);
  return std::all_of(bytes, bytes + sizeof entry, [](unsigned char b) { return b == 0; });
}
void write_entry(const Contents& store, std::uint32_t i, const GroupEntry& entry) {
  const auto at = static_cast<off_t>(kPageSize + i * sizeof entry);
  REQUIRE(::pwrite(store.files().groups.get(), &entry, sizeof entry, at) == sizeof entry);
}

}  // namespace

TEST_CASE("names of groups are bounded, as are groups in use") {
  auto store = must(Contents::create(kArena));
  CHECK_FALSE(store->group(""));
  CHECK_FALSE(store->group(std::string(97, 'x')));
  std::vector<GroupUse> uses;
  uses.push_back(must(store->group(std::string(96, 'x'))));
  for (std::size_t i = 1; i < kGroupsMax; ++i)
    uses.push_back(must(store->group("g" + std::to_string(i))));
  const auto more = store->group("one more");
  REQUIRE_FALSE(more);
  CHECK(more.error().code == ENOSPC);
  uses[1234].reset();
  const GroupUse fits = must(store->group("one more"));
  CHECK(fits.id() == GroupId{1234});
}

TEST_CASE("a group goes with its last user and its last content, and its seed with it") {
  auto store = must(Contents::create(kArena));
  const PageCopy page = page_of(1);
  GroupUse use = must(store->group("a"));
  const GroupId id = use.id();
  const ContentHash hash = store->hash(use, page);
  ContentId content;

  SECTION("the user first") {
    content = put(*store, use, page).ref.release();
    use.reset();
    CHECK_FALSE(is_wiped(*store, id));
    {
      const GroupUse again = must(store->group("a"));  // it is still that group
      CHECK(again.id() == id);
      CHECK(put(*store, again, page).existed);
    }
    CHECK(holds(*store, content, page, id));
    store->drop(id, content);
  }
  SECTION("the content first") {
    content = put(*store, use, page).ref.release();
    store->drop(id, content);
    CHECK_FALSE(is_wiped(*store, id));
    use.reset();
  }
  SECTION("one of two users, then the other") {
    GroupUse second = must(store->group("a"));
    use.reset();
    CHECK_FALSE(is_wiped(*store, id));
    second.reset();
  }
  CHECK(is_wiped(*store, id));
  CHECK(store->stats().groups.empty());
  const GroupUse next = must(store->group("a"));
  CHECK(next.id() == id);
  CHECK(store->hash(next, page).value != hash.value);
  CHECK_FALSE(put(*store, next, page).existed);
  CHECK(store->stats().groups.at(0).forms[static_cast<std::size_t>(Form::raw)].references == 0);
}

TEST_CASE("what two groups of one id keep one after the other is not found by each other") {
  auto store = must(Contents::create(kArena));
  auto reformer = must(Reformer::make(*store));
  for (std::uint64_t round = 0; round < 3; ++round) {
    CAPTURE(round);
    const GroupUse use = must(store->group("vm:" + std::to_string(round)));
    CHECK(use.id() == GroupId{0});
    std::vector<Ref> refs;
    for (std::uint64_t i = 0; i < 8; ++i) {
      PutResult kept = put(*store, use, kin_of(1, i));
      CHECK_FALSE(kept.existed);
      refs.push_back(std::move(kept.ref));
    }
    REQUIRE(reformer->step(greedy(), (round + 1) * 1000, 60'000'000'000).came_round);
    const Stats stats = store->stats();
    CHECK(stats.forms[static_cast<std::size_t>(Form::patch)].contents +
              stats.forms[static_cast<std::size_t>(Form::delta)].contents >
          0);
    for (std::uint64_t i = 0; i < 8; ++i) CHECK(holds(*store, refs[i].id(), kin_of(1, i), use));
  }
  CHECK(store->stats().groups.empty());
  CHECK(store->stats().arena_in_slots.value == 0);
}

TEST_CASE("10,000 VMs come and go, through restarts, beside one that stays") {
  constexpr std::uint64_t kCycles = 10'000;
  constexpr std::uint64_t kPerLife = 487;  // some VMs are there at the end of a daemon's life
  auto store = must(Contents::create(kArena));
  GroupUse staying = must(store->group("staying"));
  const PageCopy page = page_of(7);
  const ContentId stays = put(*store, staying, page).ref.release();
  std::string left_name;
  std::vector<ContentId> left;  // the words of a VM that lives over a restart
  for (std::uint64_t i = 0; i < kCycles; ++i) {
    const std::string name = "vm:" + std::to_string(i);
    GroupUse use = must(store->group(name));
    REQUIRE(use.id().value < 4);
    std::vector<ContentId> words;
    for (std::uint64_t n = 7; n < 10; ++n) {
      PutResult kept = put(*store, use, page_of(n));
      REQUIRE_FALSE(kept.existed);
      words.push_back(kept.ref.release());
    }
    if (i % kPerLife != kPerLife - 1) {
      const GroupId group = use;
      if (i % 2 == 0) use.reset();
      for (const ContentId id : words) store->drop(group, id);
      continue;
    }
    // Of every other one of these the next daemon knows nothing: its process has ended meanwhile.
    const bool lives = i / kPerLife % 2 == 0;
    auto next = must(Contents::adopt(same_files(*store)));
    store = std::move(next);
    staying = must(store->group("staying"));
    store->count(staying, stays);
    if (lives) {
      use = must(store->group(name));
      for (const ContentId id : words) store->count(use, id);
    }
    must(store->finish_recovery());
    REQUIRE(store->stats().groups.size() == (lives ? 2 : 1));
    REQUIRE(holds(*store, stays, page, staying));
    REQUIRE(put(*store, staying, page).existed);
    for (std::uint64_t n = 0; lives && n < words.size(); ++n) {
      REQUIRE(holds(*store, words[n], page_of(n + 7), use));
      store->drop(use, words[n]);
    }
  }
  const Stats stats = store->stats();
  REQUIRE(stats.groups.size() == 1);
  CHECK(stats.groups[0].name == "staying");
  CHECK(stats.corrupt + stats.miscounted == 0);
  store->drop(staying, stays);
  CHECK(store->stats().arena_in_slots.value == 0);
}

TEST_CASE("entries that a process left half made or half wiped go when the store has recovered") {
  auto store = must(Contents::create(kArena));
  GroupUse a = must(store->group("a"));
  GroupUse b = must(store->group("b"));
  GroupUse c = must(store->group("c"));
  const ContentId kept = put(*store, a, page_of(1)).ref.release();
  GroupEntry half = entry_of(*store, b);
  half.checksum = 0;
  write_entry(*store, b.id().value, half);
  auto next = must(Contents::adopt(same_files(*store)));
  CHECK_FALSE(is_wiped(*next, b));
  next->count(a, kept);
  {
    const GroupUse other = must(next->group("b"));  // not that one, nor in its place
    CHECK(other.id() == GroupId{3});
  }
  must(next->finish_recovery());
  CHECK_FALSE(is_wiped(*next, a));
  CHECK(is_wiped(*next, b));
  CHECK(is_wiped(*next, c));  // sound, but nobody names it
  CHECK(next->stats().groups.size() == 1);
  CHECK(holds(*next, kept, page_of(1), a));
}

TEST_CASE("a damaged content keeps its group until the next restart") {
  auto store = must(Contents::create(kArena));
  GroupUse use = must(store->group("a"));
  const GroupId group = use.id();
  const ContentId id = put(*store, use, page_of(1, kPageSize)).ref.release();
  const std::uint64_t junk = 1;
  REQUIRE(::pwrite(store->files().arena.get(), &junk, sizeof junk, 0) == sizeof junk);
  PageCopy out;
  REQUIRE(store->get(use, id, out.bytes.data(), {}) == Got::corrupt);
  store->drop(use, id);
  use.reset();
  CHECK_FALSE(is_wiped(*store, group));
  auto next = must(Contents::adopt(same_files(*store)));
  must(next->finish_recovery());
  CHECK(is_wiped(*next, group));
}

TEST_CASE("a store that was handed over frees nothing and wipes no group") {
  auto store = must(Contents::create(kArena));
  GroupUse used = must(store->group("a"));
  GroupUse empty = must(store->group("b"));
  const GroupId b = empty.id();
  const ContentId id = put(*store, used, page_of(1)).ref.release();
  auto next = must(Contents::adopt(same_files(*store)));
  store->hand_over();
  store->drop(used, id);
  used.reset();
  empty.reset();
  CHECK_FALSE(is_wiped(*next, b));
  CHECK(holds(*next, id, page_of(1), GroupId{0}));
}

TEST_CASE("one look at each of N groups takes N times few steps, not N times N") {
  for (const std::uint64_t n : {200u, 2000u}) {
    std::vector<GroupStats> groups(n);
    for (std::uint64_t i = 0; i < n; ++i) {
      groups[i].group = GroupId{static_cast<std::uint16_t>(2 * i + 1)};  // some were freed
    }
    std::uint64_t steps = 0;
    auto counted = groups | std::views::transform([&](const GroupStats& g) -> const GroupStats& {
                     ++steps;
                     return g;
                   });
    for (const GroupStats& group : groups) {
      REQUIRE(find_group(counted, group.group) == &group);
    }
    CHECK(steps <= n * (2 + static_cast<std::uint64_t>(std::bit_width(n))));
    CHECK(find_group(groups, GroupId{2}) == nullptr);
    CHECK(find_group(groups, GroupId{60'000}) == nullptr);
  }
  // The order that it counts on.
  auto store = must(Contents::create(ByteCount{8u << 20}));
  std::vector<GroupUse> uses;
  for (int i = 0; i < 40; ++i) uses.push_back(must(store->group("g" + std::to_string(i))));
  for (std::size_t i = 0; i < uses.size(); i += 3) uses[i] = GroupUse();
  for (int i = 0; i < 5; ++i) uses.push_back(must(store->group("h" + std::to_string(i))));
  const Stats stats = store->stats();
  CHECK(std::ranges::is_sorted(stats.groups, {}, [](const auto& g) { return g.group.value; }));
  for (std::size_t i = 0; i < uses.size(); ++i) {
    if (i >= 40 || i % 3 != 0) CHECK(find_group(stats.groups, uses[i].id()) != nullptr);
  }
}
