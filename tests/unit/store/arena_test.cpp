// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/arena/arena.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kSize{32u << 20};

struct Room {
  sys::Fd file = must(Arena::make_file(kSize));
  std::unique_ptr<Arena> arena = must(Arena::open(file, kSize));
};

}  // namespace

TEST_CASE("every length has a class that holds it and wastes less than a sixteenth") {
  for (std::uint32_t length = 1; length <= kPageSize; ++length) {
    const SizeClass c = kSizeClasses.of[class_of(length)];
    REQUIRE(c.bytes >= length);
    REQUIRE(c.slots * c.bytes <= kSlabBytes);
    REQUIRE(c.bytes - length < std::max<std::size_t>(kUnit, kPageSize / 16));
    REQUIRE(static_cast<std::size_t>(c.slots * c.bytes) >= kSlabBytes - kSlabBytes / 16);
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
      room.arena->free(victim->second);
      live.erase(victim);
    }
  }
  for (const auto& [offset, at] : live) room.arena->free(at);
  room.arena->trim();
  CHECK(room.arena->in_slots().value == 0);
  CHECK(room.arena->allocated().value <= (1u << 20));
}

TEST_CASE("a map rebuilt from claims is the map that was") {
  Room room;
  std::vector<Extent> live;
  for (std::uint32_t i = 0; i < 5000; ++i) live.push_back(must(room.arena->allocate(i % 4096 + 1)));
  for (std::size_t i = 0; i < live.size(); i += 3) room.arena->free(live[i]);
  auto again = must(Arena::open(room.file, kSize));
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (i % 3 != 0) REQUIRE(again->claim(live[i]) == Arena::Claimed::yes);
  }
  CHECK(again->claim(live[1]) == Arena::Claimed::conflict);
  must(again->finish_claims());
  CHECK(again->in_slots() == room.arena->in_slots());
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (i % 3 != 0) again->free(live[i]);
  }
  again->trim();
  CHECK(again->allocated().value <= (1u << 20));
}
