// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/reform/reformer.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <vector>

#include "greedy.hpp"
#include "pages.hpp"
#include "stores.hpp"

namespace {
std::atomic<bool> memory_is_short{false};
std::atomic<int> populates_left{-1};  // that find memory; negative: all
std::atomic<bool> seeds_are_fixed{false};
}  // namespace

// In the C library's stead: memory that is asked for, while there is none.
extern "C" int fallocate(int fd, int mode, off_t offset, off_t length) {
  if (mode == 0 && memory_is_short) {
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, length));
}
extern "C" int madvise(void* at, size_t size, int advice) noexcept {
  if (advice == MADV_POPULATE_WRITE && populates_left >= 0 && populates_left-- == 0) {
    populates_left = 0;
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_madvise, at, size, advice));
}

extern "C" ssize_t getrandom(void* to, size_t size, unsigned flags) {
  if (!seeds_are_fixed) return ::syscall(SYS_getrandom, to, size, flags);
  std::memset(to, 1, size);
  return static_cast<ssize_t>(size);
}

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};
constexpr std::uint64_t kEnough = 60'000'000'000;  // of CPU: a step goes once round

struct Rig {
  std::unique_ptr<Contents> store = must(Contents::create(kArena));
  GroupUse group = must(store->group("a"));
  std::unique_ptr<Reformer> reformer = must(Reformer::make(*store));
  std::uint64_t now = 0;

  ContentId keep(const PageCopy& page) { return put(*store, group, page).ref.release(); }
  void round(const ReformPolicy& policy = greedy()) {
    now += 1000;
    REQUIRE(reformer->step(policy, now, kEnough).came_round);
  }
  // What the next daemon finds; it has counted the words `ids`.
  void restart(const std::vector<ContentId>& ids) {
    reformer.reset();
    store = must(Contents::adopt(same_files(*store)));
    group = must(store->group("a"));
    for (const ContentId id : ids) store->count(group, id);
    must(store->finish_recovery());
    reformer = must(Reformer::make(*store));
  }
  std::uint64_t contents(Form form) const {
    return store->stats().forms[static_cast<std::size_t>(form)].contents;
  }
};

// Noise with one word of its own: whatever the seed, they are found to be alike.
PageCopy twin_of(std::uint64_t member) {
  PageCopy page = page_of(1, kPageSize);
  const std::uint64_t word = mix(member);
  std::memcpy(&page.bytes[1024], &word, sizeof word);
  return page;
}

bool damage(const Contents& store, std::uint64_t from, std::uint64_t bytes) {
  std::vector<unsigned char> noise(bytes, 0xa5);
  return ::pwrite(store.files().arena.get(), noise.data(), bytes, static_cast<off_t>(from)) ==
         static_cast<ssize_t>(bytes);
}

}  // namespace

TEST_CASE("every kind of page gets the form that suits it and comes back") {
  Rig rig;
  std::vector<std::pair<ContentId, PageCopy>> kept;
  const auto keep = [&](const PageCopy& page) { kept.emplace_back(rig.keep(page), page); };
  for (std::uint64_t i = 0; i < 20; ++i) {
    keep(kin_of(i % 5, i));
    keep(page_of(100 + i, 1000));
    keep(table_of(i));
    keep(page_of(200 + i, kPageSize));
  }
  for (const auto& [id, _] : kept) CHECK(rig.store->is_quick(id));  // raw or LZ4
  CHECK(rig.store->is_quick(kZeroContent));
  const Stats before = rig.store->stats();
  rig.round();
  rig.round();
  const Stats after = rig.store->stats();
  CHECK(after.arena_stored.value < before.arena_stored.value * 3 / 4);
  CHECK(rig.contents(Form::delta) + rig.contents(Form::patch) >=
        8);  // 3 of 4 in each family, nearly
  CHECK(rig.contents(Form::zstd) >= 20);
  CHECK(rig.contents(Form::raw) >= 20);  // noise stays as it is
  for (const auto& [id, page] : kept) {
    CHECK(holds(*rig.store, id, page));
    CHECK(put(*rig.store, rig.group, page).existed);  // found whatever its form
    const Form form = rig.store->form(id);
    if (form == Form::raw || form == Form::lz4) CHECK(rig.store->is_quick(id));
    if (form == Form::zstd || form == Form::delta) CHECK_FALSE(rig.store->is_quick(id));
  }
  CHECK(after.corrupt + after.collisions + after.miscounted == 0);
  CHECK(rig.reformer->figures().saved_bytes > 0);
  for (const auto& [id, _] : kept) rig.store->drop(kFirstGroup, id);
  const Stats empty = rig.store->stats();
  CHECK(empty.arena_in_slots.value == 0);
  for (const FormStats& form : empty.forms) CHECK(form.contents + form.references == 0);
}

TEST_CASE("nothing is reformed that is not cold, nor what does not pay") {
  Rig rig;
  const ContentId id = rig.keep(table_of(1));
  const ReformPolicy balanced;
  CHECK(rig.reformer->step(balanced, 0, kEnough).came_round);
  CHECK_FALSE(rig.reformer->step(balanced, 0, kEnough).changed);
  ReformPolicy stingy;
  stingy.economy.cpu_s_per_gib_hour = 0;
  rig.round(stingy);
  CHECK(rig.reformer->figures().tried == 0);
  // Read just now: not cold, whenever it was stored.
  rig.now += 1;
  (void)rig.reformer->step(stingy, rig.now, kEnough);
  CHECK(holds(*rig.store, id, table_of(1)));
  CHECK_FALSE(rig.reformer->step(balanced, rig.now, kEnough).changed);
  rig.now += 10'000;
  rig.round(balanced);
  CHECK(rig.contents(Form::zstd) == 1);
}

TEST_CASE("each mechanism can be switched off") {
  ReformPolicy policy = greedy();
  policy.similar = GENERATE(true, false);
  policy.dense = GENERATE(true, false);
  Rig rig;
  for (std::uint64_t i = 0; i < 8; ++i) {
    rig.keep(kin_of(1, i));
    rig.keep(table_of(i));
  }
  rig.round(policy);
  const bool refers = rig.contents(Form::patch) + rig.contents(Form::delta) != 0;
  const bool dense = rig.contents(Form::zstd) + rig.contents(Form::delta) != 0;
  CHECK(refers == policy.similar);
  CHECK(dense == policy.dense);
}

TEST_CASE(
    "what stays cold is mixed in the end, alone and with a reference, and survives a restart") {
  Rig rig;
  std::vector<ContentId> ids;
  std::vector<PageCopy> pages;
  for (std::uint64_t i = 0; i < 24; ++i) {
    pages.push_back(i % 2 == 0 ? records_of(i) : kin_of(i % 3, i));
    ids.push_back(rig.keep(pages.back()));
  }
  const auto all_hold = [&] {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!holds(*rig.store, ids[i], pages[i])) return false;
    }
    return true;
  };
  ReformPolicy unmixed = greedy();
  unmixed.mixed = false;
  for (int i = 0; i < 6; ++i) rig.round(unmixed);
  CHECK(rig.contents(Form::mix) + rig.contents(Form::mix_delta) == 0);
  const std::uint64_t before = rig.store->stats().arena_stored.value;
  for (int i = 0; i < 6; ++i) rig.round();
  CHECK(rig.contents(Form::mix) >= 1);
  CHECK(rig.contents(Form::mix_delta) >= 1);
  CHECK(rig.store->stats().arena_stored.value < before);
  CHECK(all_hold());
  rig.restart(ids);
  CHECK(rig.store->stats().corrupt == 0);
  CHECK(rig.contents(Form::mix) >= 1);
  CHECK(all_hold());
  for (const ContentId id : ids) rig.store->drop(kFirstGroup, id);
  CHECK(rig.store->stats().arena_in_slots.value == 0);
}

TEST_CASE("what reading a form takes is learnt where it is given, also of those with a reference") {
  ReformPolicy policy = greedy();
  policy.dense = GENERATE(true, false);
  const Form form = policy.dense ? Form::delta : Form::patch;
  Rig rig;
  for (std::uint64_t i = 0; i < 8; ++i) rig.keep(kin_of(1, i));
  const auto believed = [&] {
    return rig.reformer->figures().costs.decode_ns[static_cast<std::size_t>(form)];
  };
  const double at_first = believed();
  rig.round(policy);
  REQUIRE(rig.contents(form) != 0);
  CHECK(believed() != at_first);
}

TEST_CASE("nothing refers to another group's content") {
  Rig rig;
  const GroupUse other = must(rig.store->group("b"));
  for (std::uint64_t i = 0; i < 2; ++i) {
    const GroupUse& group = i == 0 ? rig.group : other;
    CHECK(put(*rig.store, group, kin_of(1, i)).ref.release() != kZeroContent);
  }
  rig.round();
  CHECK(rig.contents(Form::patch) + rig.contents(Form::delta) == 0);
}

TEST_CASE("a reference that only patches need stays as long as they do, or they are rewritten") {
  Rig rig;
  const ContentId first = rig.keep(twin_of(0));
  const ContentId second = rig.keep(twin_of(1));
  rig.round();
  REQUIRE(rig.contents(Form::patch) + rig.contents(Form::delta) == 1);
  rig.store->drop(kFirstGroup, first);
  CHECK(holds(*rig.store, second, twin_of(1)));
  CHECK(put(*rig.store, rig.group, twin_of(0)).existed);  // it is still there to be shared
  for (int i = 0; i < 16; ++i) rig.round();
  CHECK(rig.reformer->figures().rewritten == 1);
  CHECK(rig.store->stats().forms[static_cast<std::size_t>(Form::raw)].contents == 1);
  CHECK(rig.contents(Form::patch) + rig.contents(Form::delta) == 0);
  CHECK(holds(*rig.store, second, twin_of(1)));
  rig.store->drop(kFirstGroup, second);
  CHECK(rig.store->stats().arena_in_slots.value == 0);
}

TEST_CASE(
    "patches and their references survive a restart, and what nobody counts goes with its "
    "reference") {
  Rig rig;
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < 8; ++i) ids.push_back(rig.keep(twin_of(i)));
  rig.round();
  REQUIRE(rig.contents(Form::patch) + rig.contents(Form::delta) >= 5);
  // Then the page of the reference is written to: only its patches need it.
  rig.restart(ids);
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(holds(*rig.store, ids[i], twin_of(i)));
  rig.store->drop(kFirstGroup, ids[0]);
  std::vector<ContentId> rest(ids.begin() + 1, ids.end());
  rig.restart(rest);
  for (std::size_t i = 1; i < ids.size(); ++i) CHECK(holds(*rig.store, ids[i], twin_of(i)));
  CHECK(rig.store->stats().miscounted == 0);
  for (const ContentId id : rest) rig.store->drop(kFirstGroup, id);
  CHECK(rig.store->stats().arena_in_slots.value == 0);
  // And the same when they fall while it recovers.
  rig.restart({});
  CHECK(rig.store->stats().arena_in_slots.value == 0);
}

TEST_CASE("patches are good after a recovery for which memory was short") {
  Rig rig;
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < 8; ++i) ids.push_back(rig.keep(twin_of(i)));
  rig.round();
  const std::uint64_t patches = rig.contents(Form::patch) + rig.contents(Form::delta);
  REQUIRE(patches >= 5);
  const ByteCount header_bytes = rig.store->stats().header_bytes;
  const auto another = must(Contents::create(kArena));
  const GroupUse group = must(another->group("b"));
  memory_is_short = true;
  rig.restart(ids);
  const auto refused = another->put(group, page_of(1), another->hash(group, page_of(1)));
  memory_is_short = false;
  CHECK_FALSE(refused);  // it was short indeed
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(holds(*rig.store, ids[i], twin_of(i)));
  CHECK(rig.store->stats().corrupt == 0);
  CHECK(rig.contents(Form::patch) + rig.contents(Form::delta) == patches);
  CHECK(rig.store->stats().header_bytes == header_bytes);
  // The memory is asked for again before the first new one.
  for (std::uint64_t i = 8; i < 12; ++i) ids.push_back(rig.keep(twin_of(i)));
  rig.round();
  CHECK(rig.contents(Form::patch) + rig.contents(Form::delta) > patches);
  CHECK(rig.store->stats().header_bytes == header_bytes);
  rig.restart(ids);
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(holds(*rig.store, ids[i], twin_of(i)));
  for (const ContentId id : ids) rig.store->drop(kFirstGroup, id);
  CHECK(rig.store->stats().arena_in_slots.value == 0);
}

TEST_CASE("a recovery that found no memory for the index is finished by another call") {
  Rig rig;
  constexpr std::uint64_t kOthers = 6000;  // so many that the index has more than one segment
  std::vector<ContentId> twins;
  for (std::uint64_t i = 0; i < 8; ++i) twins.push_back(rig.keep(twin_of(i)));
  rig.round();
  const std::uint64_t patches = rig.contents(Form::patch) + rig.contents(Form::delta);
  REQUIRE(patches >= 5);
  std::vector<ContentId> others;
  for (std::uint64_t i = 0; i < kOthers; ++i) others.push_back(rig.keep(page_of(100 + i, 64)));
  rig.keep(page_of(99, 64));  // named by nobody after the restart
  const Stats before = rig.store->stats();

  rig.reformer.reset();
  rig.store = must(Contents::adopt(same_files(*rig.store)));
  Contents& store = *rig.store;
  for (const ContentId id : twins) store.count(kFirstGroup, id);
  for (const ContentId id : others) store.count(kFirstGroup, id);
  for (const int found : {0, 1}) {
    populates_left = found;
    const Status done = store.finish_recovery();
    populates_left = -1;
    REQUIRE_FALSE(done);
    CHECK(done.error().code == ENOMEM);
    CHECK(store.recovering());
    // Meanwhile pages are served, and references given up: one of what patches need, one of a
    // patch, one of a content that nobody needs then.
    const auto gone = static_cast<std::size_t>(found);
    for (std::size_t i = gone; i < twins.size(); ++i) CHECK(holds(store, twins[i], twin_of(i)));
    store.drop(kFirstGroup, twins[gone]);
    store.drop(kFirstGroup, others[gone]);
    CHECK_FALSE(store.put(rig.group, page_of(1), store.hash(rig.group, page_of(1))));
  }
  must(store.finish_recovery());
  CHECK_FALSE(store.recovering());
  const Stats after = store.stats();
  CHECK(after.corrupt + after.miscounted + after.unindexed == 0);
  // Without the one that nobody named, the two others and what the twins can do without.
  CHECK(sums_of(before).contents - sums_of(after).contents >= 3);
  CHECK(sums_of(before).contents - sums_of(after).contents <= 5);
  CHECK(sums_of(after).references == sums_of(before).references - 5);
  for (std::size_t i = 2; i < twins.size(); ++i) CHECK(holds(store, twins[i], twin_of(i)));
  for (std::size_t i = 2; i < others.size(); ++i) {
    const PageCopy page = page_of(100 + i, 64);
    REQUIRE(holds(store, others[i], page));
    REQUIRE(put(store, rig.group, page).existed);
  }
  CHECK_FALSE(put(store, rig.group, page_of(99, 64)).existed);
  for (std::size_t i = 2; i < twins.size(); ++i) store.drop(kFirstGroup, twins[i]);
  for (std::size_t i = 2; i < others.size(); ++i) store.drop(kFirstGroup, others[i]);
  CHECK(store.stats().arena_in_slots.value == 0);
}

TEST_CASE("references dropped while the store recovers are given up once") {
  Rig rig;
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < 8; ++i) ids.push_back(rig.keep(twin_of(i)));
  rig.round();
  rig.reformer.reset();
  rig.store = must(Contents::adopt(same_files(*rig.store)));
  for (const ContentId id : ids) rig.store->count(kFirstGroup, id);
  for (const ContentId id : ids) {
    CHECK(holds(*rig.store, id, twin_of(id.value - ids[0].value)));
    if (id.value % 2 == 0) rig.store->drop(kFirstGroup, id);
  }
  must(rig.store->finish_recovery());
  for (const ContentId id : ids) {
    if (id.value % 2 == 0) continue;
    CHECK(holds(*rig.store, id, twin_of(id.value - ids[0].value)));
    rig.store->drop(kFirstGroup, id);
  }
  CHECK(rig.store->stats().arena_in_slots.value == 0);
  CHECK(rig.store->stats().miscounted == 0);
}

TEST_CASE("a damaged reference is told, and its patches with it; the rest is served") {
  Rig rig;
  const ContentId first = rig.keep(twin_of(0));
  std::vector<ContentId> patches;
  for (std::uint64_t i = 1; i < 4; ++i) patches.push_back(rig.keep(twin_of(i)));
  const ContentId apart = rig.keep(page_of(7, 100));
  ReformPolicy policy = greedy();
  policy.dense = false;
  rig.round(policy);
  REQUIRE(rig.contents(Form::patch) == 3);
  REQUIRE(rig.contents(Form::raw) == 1);
  // The one raw page of the store: find it by its first bytes.
  const PageCopy raw = twin_of(0);
  PageCopy seen;
  for (std::uint64_t at = 0; at < (1u << 20); at += 32) {
    if (::pread(rig.store->files().arena.get(), seen.bytes.data(), kPageSize,
                static_cast<off_t>(at)) != static_cast<ssize_t>(kPageSize)) {
      break;
    }
    if (seen.bytes == raw.bytes) REQUIRE(damage(*rig.store, at, kPageSize));
  }
  PageCopy out;
  for (const ContentId id : patches)
    CHECK(rig.store->get(kFirstGroup, id, out.bytes.data(), {}) == Got::corrupt);
  CHECK(rig.store->get(kFirstGroup, first, out.bytes.data(), {}) == Got::corrupt);
  CHECK(holds(*rig.store, apart, page_of(7, 100)));
  CHECK_FALSE(put(*rig.store, rig.group, twin_of(0)).existed);
  CHECK(rig.store->stats().corrupt == 4);
}

// Three pages of noise: half resembles first in a fifth of its bytes, and last resembles half in
// all but a byte.
struct Family {
  PageCopy first, half, last;
  explicit Family(std::uint64_t number)
      : first(page_of(mix(number) | 1, kPageSize)),
        half(page_of(mix(number + 500) | 1, kPageSize)) {
    std::memcpy(&half.bytes[1600], &first.bytes[1600], kPageSize / 5);
    last = half;
    last.bytes[8] ^= std::byte{1};
  }
};

TEST_CASE(
    "a reference that gains little is not taken from those that would gain much by the page") {
  Rig rig;
  constexpr std::uint64_t kFamilies = 40;
  std::vector<ContentId> halves, lasts;
  for (std::uint64_t i = 0; i < kFamilies; ++i) {
    const Family family(i);
    rig.keep(family.first);
    halves.push_back(rig.keep(family.half));
    lasts.push_back(rig.keep(family.last));
  }
  const auto refers = [&](ContentId id) { return needs_reference(rig.store->form(id)); };
  rig.round();
  CHECK(std::ranges::count_if(halves, refers) == 0);
  CHECK(std::ranges::count_if(lasts, refers) >= static_cast<std::ptrdiff_t>(kFamilies - 1));
  // Who refers to it stays small, whatever comes later.
  rig.round();
  rig.round();
  CHECK(std::ranges::count_if(halves, refers) <= 1);
  CHECK(rig.store->stats().arena_stored.value < kFamilies * kPageSize * 21 / 10);
}

TEST_CASE("a reference that gains little is taken when nobody wants the page, by what it gains") {
  Rig rig;
  constexpr std::uint64_t kFamilies = 40;
  for (std::uint64_t i = 0; i < kFamilies; ++i) {
    const Family family(i);
    rig.keep(family.first);
    rig.keep(family.half);
  }
  const auto refer = [&] { return rig.contents(Form::patch) + rig.contents(Form::delta); };
  rig.round();
  CHECK(refer() == 0);
  rig.round();
  rig.round();
  CHECK(refer() >= kFamilies / 4);  // of those with so little in common a part is found
  // And then it is known what there is.
  for (int i = 0; i < 3; ++i) rig.round();
  const std::uint64_t tried = rig.reformer->figures().tried;
  for (int i = 0; i < 6; ++i) rig.round();
  CHECK(rig.reformer->figures().tried == tried);
}

// What `of` is made of, in pieces too short for any of a sketch's windows.
PageCopy crumbs(const PageCopy& of, std::uint64_t seed) {
  PageCopy page = page_of(mix(seed) | 1, kPageSize);
  constexpr std::size_t kPiece = 24, kEvery = 32, kPieces = kPageSize / kEvery;
  for (std::size_t i = 0; i < kPieces; ++i) {
    const std::size_t from = (i * 37 + 5) % kPieces * kEvery + 3;
    std::memcpy(&page.bytes[i * kEvery], &of.bytes[from], kPiece);
  }
  return page;
}

TEST_CASE(
    "at last what lies near a page is tried as its reference, however little they look alike") {
  Rig rig;
  constexpr std::uint64_t kPairs = 20;
  const std::uint64_t apart = GENERATE(1, 4, 20);  // ids between the pages of a pair
  const bool near = apart < kPairs;
  const auto first = [](std::uint64_t i) { return page_of(mix(i) | 1, kPageSize); };
  std::vector<std::pair<ContentId, PageCopy>> kept;
  const auto keep = [&](const PageCopy& page) { kept.emplace_back(rig.keep(page), page); };
  for (std::uint64_t i = 0; i < kPairs; ++i) {
    keep(first(i));
    for (std::uint64_t k = 1; near && k < apart; ++k) keep(first(i * 100 + k + 5000));
    if (near) keep(crumbs(first(i), i + 1000));
  }
  for (std::uint64_t i = 0; i < kPairs && !near; ++i) keep(crumbs(first(i), i + 1000));
  const auto refer = [&] { return rig.contents(Form::patch) + rig.contents(Form::delta); };
  rig.round();
  rig.round();
  CHECK(refer() == 0);
  rig.round();
  CHECK(refer() == (near ? kPairs : 0));
  for (const auto& [id, page] : kept) CHECK(holds(*rig.store, id, page));
}

TEST_CASE("of neighbours that are alike one is the reference of all others") {
  // The group's seed decides which candidates a search meets. With about 3 % of the seeds one more
  // page stays without a reference.
  seeds_are_fixed = true;
  Rig rig;
  seeds_are_fixed = false;
  constexpr std::uint64_t kPages = 24;
  std::vector<std::pair<ContentId, PageCopy>> kept;
  const PageCopy base = page_of(3, kPageSize);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    const PageCopy page = crumbs(base, i + 1000);
    kept.emplace_back(rig.keep(page), page);
  }
  ReformPolicy unmixed = greedy();
  unmixed.mixed = false;
  for (int i = 0; i < 3; ++i) rig.round(unmixed);
  CHECK(rig.contents(Form::delta) == kPages - 1);
  for (const auto& [id, page] : kept) CHECK(holds(*rig.store, id, page));
}

TEST_CASE("pages that gain nothing say nothing of others that have another length") {
  constexpr std::uint32_t kLong = 4000;
  constexpr std::uint32_t kShort = 1000;
  CostModel costs;
  costs.set_economy({.cpu_s_per_gib_hour = 3'600'000});
  const auto pays = [&](std::uint32_t length) {
    return costs.pays(Stage::mixed, {Form::zstd}, length, 60, 0);
  };
  CHECK(pays(kLong));
  for (int i = 0; i < 2000; ++i) costs.learn_attempt(Stage::mixed, Form::zstd, kLong, 700'000, 0);
  CHECK_FALSE(pays(kLong));
  CHECK(pays(kShort));
}

TEST_CASE("a reference that takes long to decode is not taken for what is cold for a short time") {
  const auto references = std::make_unique<References>();
  References::One& one = references->all[0];
  one.page = twin_of(1);
  references->count = references->alike = 1;
  const PageCopy page = twin_of(0);
  const CostModel costs;
  FormSearch search = must(FormSearch::make());
  const auto refers = [&](Form form_of_reference, double cold_s) {
    one.shape = {form_of_reference};
    const Shape raw{Form::raw};
    const double cost = costs.cost_ns(raw, std::nullopt, kPageSize, cold_s, 0);
    search.begin(page, *references, costs, cold_s, 0,
                 {raw, kPageSize, FormSearch::kNoReference, cost}, 0);
    search.try_patches();
    return search.improved();
  };
  CHECK(refers(Form::zstd, 20));
  CHECK_FALSE(refers(Form::mix, 20));
  CHECK(refers(Form::mix, 2000));
}

TEST_CASE("slabs that ran half empty are emptied into others") {
  Rig rig;
  std::vector<ContentId> ids;
  constexpr std::uint64_t kPages = 4000;
  for (std::uint64_t i = 0; i < kPages; ++i) ids.push_back(rig.keep(page_of(i, 1000)));
  for (std::uint64_t i = 0; i < kPages; ++i) {
    if (i % 4 != 0) rig.store->drop(kFirstGroup, ids[i]);
  }
  ReformPolicy policy = greedy();
  policy.similar = policy.dense = false;
  rig.store->trim_all();
  const double before = rig.store->stats().fragmentation();
  CHECK(before > 0.5);
  for (int i = 0; i < 4; ++i) rig.round(policy);
  rig.store->trim_all();
  CHECK(rig.store->stats().fragmentation() < 0.12);
  CHECK(rig.reformer->figures().moved > 0);
  for (std::uint64_t i = 0; i < kPages; i += 4)
    REQUIRE(holds(*rig.store, ids[i], page_of(i, 1000)));
}

TEST_CASE("contents move together while a walk has work with every one of them") {
  Rig rig;
  std::vector<ContentId> ids;
  constexpr std::uint64_t kPages = 4000;
  const auto noise = [](std::uint64_t i) { return page_of(i, kPageSize); };
  for (std::uint64_t i = 0; i < kPages; ++i) ids.push_back(rig.keep(noise(i)));
  for (std::uint64_t i = 0; i < kPages; ++i) {
    if (i % 4 != 0) rig.store->drop(kFirstGroup, ids[i]);
  }
  rig.round();
  CHECK(rig.reformer->figures().tried >= kPages / 4);  // every one, and it stays as it is
  CHECK(rig.reformer->figures().moved > kPages / 8);
  for (std::uint64_t i = 0; i < kPages; i += 4) REQUIRE(holds(*rig.store, ids[i], noise(i)));
}

TEST_CASE("a store has one reformer") {
  Rig rig;
  const auto second = Reformer::make(*rig.store);
  REQUIRE_FALSE(second);
  CHECK(second.error().code == EBUSY);
}
