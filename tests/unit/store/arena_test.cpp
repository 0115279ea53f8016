// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/arena/arena.hpp"

#include <sys/stat.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <thread>

#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kSize{32u << 20};

struct Room {
  sys::Fd file = must(Arena::make_file(kSize));
  std::unique_ptr<Arena> arena = must(Arena::open(file, kSize));

  // What the kernel says stands behind the file.
  std::uint64_t held() const {
    struct stat st{};
    REQUIRE(::fstat(file.get(), &st) == 0);
    return static_cast<std::uint64_t>(st.st_blocks) * 512;
  }
  void trim_for_long() const {
    for (unsigned i = 0; i < 4 * Arena::kTrimsAPeriod; ++i) arena->trim();
  }
};

void fill(const Arena& arena, Extent at, std::uint64_t with) {
  std::memset(arena.data(at), static_cast<int>(mix(at.offset ^ with) & 0xff), at.length);
}
bool filled(const Arena& arena, Extent at, std::uint64_t with) {
  const auto byte = static_cast<std::byte>(mix(at.offset ^ with) & 0xff);
  return std::all_of(arena.data(at), arena.data(at) + at.length,
                     [byte](std::byte b) { return b == byte; });
}

}  // namespace

TEST_CASE("every length has a class that holds it and wastes less than a thirtieth") {
  for (std::uint32_t length = 1; length <= kPageSize; ++length) {
    const SizeClass c = kSizeClasses.of[class_of(length)];
    REQUIRE(c.bytes >= length);
    REQUIRE(c.slots * c.bytes <= kSlabBytes);
    REQUIRE(c.bytes - length < std::max<std::size_t>(kSlotMin, kPageSize / 30));
    REQUIRE(static_cast<std::size_t>(c.slots * c.bytes) >= kSlabBytes - kSlabBytes / 60);
  }
}

TEST_CASE("slots never overlap and what is freed is used again") {
  Room room;
  std::map<std::uint64_t, Extent> live;
  std::uint64_t state = 7;
  for (int i = 0; i < 100'000; ++i) {
    state = mix(state);
    if (state % 3 != 0 || live.empty()) {
      const auto at = room.arena->allocate(static_cast<std::uint32_t>(state >> 32) % 600 + 1);
      REQUIRE(at);
      const auto next = live.upper_bound(at->offset);
      if (next != live.end()) REQUIRE(at->offset + at->length <= next->first);
      if (next != live.begin()) {
        const Extent before = std::prev(next)->second;
        REQUIRE(before.offset + before.length <= at->offset);
      }
      live[at->offset] = *at;
    } else {
      auto victim = live.lower_bound((state >> 8) % room.arena->allocated().value);
      if (victim == live.end()) victim = live.begin();
      REQUIRE(room.arena->free(victim->second));
      live.erase(victim);
    }
  }
  for (const auto& [offset, at] : live) REQUIRE(room.arena->free(at));
  room.arena->trim();
  CHECK(room.arena->in_slots().value == 0);
  CHECK(room.arena->allocated().value <= (1u << 20));
}

TEST_CASE("a map rebuilt from claims is the map that was") {
  Room room;
  std::vector<Extent> live;
  for (std::uint32_t i = 0; i < 5000; ++i) live.push_back(must(room.arena->allocate(i % 4096 + 1)));
  for (std::size_t i = 0; i < live.size(); i += 3) REQUIRE(room.arena->free(live[i]));
  auto again = must(Arena::open(room.file, kSize));
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (i % 3 != 0) REQUIRE(again->claim(live[i]) == Arena::Claimed::yes);
  }
  CHECK(again->claim(live[1]) == Arena::Claimed::conflict);
  must(again->finish_claims());
  CHECK(again->in_slots() == room.arena->in_slots());
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (i % 3 != 0) REQUIRE(again->free(live[i]));
  }
  again->trim();
  CHECK(again->allocated().value <= (1u << 20));
}

TEST_CASE("a class takes memory by steps, and keeps what its slots need when it takes no more") {
  Room room;
  std::vector<Extent> live;
  for (const SizeClass c : std::span(kSizeClasses.of).first(kClasses)) {
    live.push_back(must(room.arena->allocate(c.bytes)));
    fill(*room.arena, live.back(), 0);
  }
  CHECK(room.held() == room.arena->allocated().value);
  CHECK(room.held() <= kClasses * 4 * Arena::kStepBytes);
  room.trim_for_long();
  CHECK(room.held() == room.arena->allocated().value);
  CHECK(room.held() <= kClasses * Arena::kStepBytes);
  for (const Extent at : live) CHECK(filled(*room.arena, at, 0));
  // And goes on where it stopped.
  for (int i = 0; i < 100; ++i) {
    live.push_back(must(room.arena->allocate(1000)));
    fill(*room.arena, live.back(), 0);
  }
  for (const Extent at : live) CHECK(filled(*room.arena, at, 0));
  CHECK(room.held() == room.arena->allocated().value);
  room.trim_for_long();
  CHECK(room.held() <= (kClasses + 1) * Arena::kStepBytes + 100 * 1024);
}

TEST_CASE("empty slabs are kept while they are wanted again, and only then") {
  Room room;
  const auto churn = [&] {
    std::vector<Extent> live;
    for (int i = 0; i < 100; ++i) live.push_back(must(room.arena->allocate(4096)));
    for (const Extent at : live) REQUIRE(room.arena->free(at));
  };
  for (unsigned i = 0; i < 4 * Arena::kTrimsAPeriod; ++i) {
    churn();
    room.arena->trim();
  }
  CHECK(room.held() >= 100 * kPageSize);
  room.trim_for_long();
  CHECK(room.held() == 0);
  CHECK(room.arena->allocated().value == 0);
}

TEST_CASE("the end of a slab that has room before it is emptied and given back") {
  const std::uint32_t length = GENERATE(32u, 100u, 500u, 1000u, 2500u, 4096u);
  Room room;
  const SizeClass c = kSizeClasses.of[class_of(length)];
  std::vector<Extent> live;
  for (std::uint32_t i = 0; i < 2u * c.slots; ++i) {
    live.push_back(must(room.arena->allocate(length)));
  }
  // Of each slab every third stays, so that neither takes all of the other's.
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (i % 3 != 0) REQUIRE(room.arena->free(live[i]));
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < live.size(); i += 3) live[kept++] = live[i];
  live.resize(kept);
  for (const Extent at : live) fill(*room.arena, at, 1);
  bool moved = true;
  std::size_t moves = 0;
  while (moved) {
    moved = false;
    for (Extent& at : live) {
      const bool may = room.arena->may_move(at);
      const auto to = room.arena->allocate_denser(at);
      REQUIRE(may == to.has_value());
      if (!to) continue;
      REQUIRE(to->length == length);
      REQUIRE(room.arena->free(at));
      at = *to;
      fill(*room.arena, at, 1);
      moved = true;
      REQUIRE(++moves <= 2 * kept);
    }
  }
  room.trim_for_long();
  CHECK(room.held() == room.arena->allocated().value);
  CHECK(room.held() <= kept * c.bytes + 2 * Arena::kStepBytes);
  for (const Extent at : live) CHECK(filled(*room.arena, at, 1));
}

TEST_CASE("memory behind what nobody claimed goes, also in a slab that is in use") {
  Room room;
  std::vector<Extent> live;
  for (std::uint32_t i = 0; i < 1000; ++i)
    live.push_back(must(room.arena->allocate(1 + i % 7 * 600)));
  for (const Extent at : live) fill(*room.arena, at, 2);
  Arena::Claimed claimed = Arena::Claimed::yes;
  auto again = must(Arena::open(room.file, kSize));
  for (std::size_t i = 0; i < 300; ++i) {
    if (again->claim(live[i]) != Arena::Claimed::yes) claimed = Arena::Claimed::conflict;
  }
  REQUIRE(claimed == Arena::Claimed::yes);
  must(again->finish_claims());
  CHECK(room.held() == again->allocated().value);
  CHECK(room.held() <= again->in_slots().value + 7 * Arena::kStepBytes);
  live.resize(300);
  for (int i = 0; i < 300; ++i) {
    live.push_back(must(again->allocate(1 + static_cast<std::uint32_t>(i) % 7 * 600)));
    fill(*again, live.back(), 2);
  }
  for (const Extent at : live) CHECK(filled(*again, at, 2));
  CHECK(room.held() == again->allocated().value);
}

TEST_CASE("a place where no slot of its length is in use is not freed, and nothing changes") {
  Room room;
  std::vector<Extent> live;
  for (int i = 0; i < 100; ++i) live.push_back(must(room.arena->allocate(700)));
  const Extent at = live[50];
  const std::uint64_t in_slots = room.arena->in_slots().value;
  CHECK_FALSE(room.arena->free({at.offset + 16, at.length}));        // no beginning of a slot
  CHECK_FALSE(room.arena->free({at.offset, 100}));                   // a slab of another class
  CHECK_FALSE(room.arena->free({at.offset + 8 * kSlabBytes, 700}));  // an unused slab
  CHECK_FALSE(room.arena->free({live.back().offset + kSizeClasses.of[class_of(700)].bytes, 700}));
  CHECK_FALSE(room.arena->free({kSlabBytes - 700 / 16 * 16, 700}));  // behind the last slot
  CHECK(room.arena->in_slots().value == in_slots);
  for (const Extent each : live) CHECK(room.arena->free(each));
  CHECK_FALSE(room.arena->free(at));
  CHECK(room.arena->in_slots().value == 0);
}

TEST_CASE("what is written stays while others take, free, move and trim") {
  Room room;
  std::atomic<bool> stop{false};
  std::thread trimmer([&] {
    while (!stop) {
      room.arena->trim();
      room.arena->trim_all();
    }
  });
  std::atomic<std::size_t> lost{0};
  const auto work = [&](std::uint64_t state) {
    std::vector<Extent> live;
    live.reserve(2000);
    for (int i = 0; i < 60'000; ++i) {
      state = mix(state);
      // Few sizes, growing and shrinking in turns.
      const bool grow = state % 8 < (i / 5000 % 2 == 0 ? 6u : 2u);
      if (live.empty() || (grow && live.size() < 1000)) {
        const auto at = room.arena->allocate(static_cast<std::uint32_t>(state >> 32) % 6 * 800 + 1);
        if (!at) continue;
        fill(*room.arena, *at, 3);
        live.push_back(*at);
        continue;
      }
      Extent& victim = live[(state >> 8) % live.size()];
      if (!filled(*room.arena, victim, 3)) ++lost;
      if (state % 3 == 0) {
        if (const auto to = room.arena->allocate_denser(victim)) {
          fill(*room.arena, *to, 3);
          live.push_back(*to);
        }
      }
      if (!room.arena->free(victim)) ++lost;
      victim = live.back();
      live.pop_back();
    }
    for (const Extent at : live) {
      if (!filled(*room.arena, at, 3)) ++lost;
      if (!room.arena->free(at)) ++lost;
    }
  };
  std::thread other([&] { work(11); });
  work(12);
  other.join();
  stop = true;
  trimmer.join();
  CHECK(lost == 0);
  CHECK(room.arena->in_slots().value == 0);
  room.arena->trim_all();
  CHECK(room.arena->allocated().value == 0);
  CHECK(room.held() == 0);
}
