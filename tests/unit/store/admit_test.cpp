// SPDX-License-Identifier: GPL-2.0-or-later
// What a put may add: all, what is shared, nothing.
#include <array>
#include <catch2/catch.hpp>
#include <vector>

#include "pages.hpp"
#include "store/arena/size_classes.hpp"
#include "store/stats.hpp"
#include "store/twins.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};

Result<PutResult> put_as(Contents& store, GroupId group, const PageCopy& page, Admit admit,
                         std::uint64_t origin = 0) {
  const PutRequest request{&page, store.hash(group, page), origin};
  Result<PutResult> result;
  store.put_run(group, {&request, 1}, {&result, 1}, admit);
  return result;
}
std::uint64_t contents_of(const Contents& store, Form form) {
  return store.stats().forms[static_cast<std::size_t>(form)].contents;
}

}  // namespace

TEST_CASE("a full store still shares zeros and what it has, and says so without an error") {
  auto store = must(Contents::create(ByteCount{kSlabBytes * 2}));
  const GroupUse group = must(store->group("a"));
  std::vector<Ref> kept;
  for (std::uint64_t i = 0;; ++i) {
    auto result =
        store->put(group, page_of(i, kPageSize), store->hash(group, page_of(i, kPageSize)));
    if (!result) {
      CHECK(result.error().code == ENOSPC);
      break;
    }
    kept.push_back(std::move(result->ref));
    REQUIRE(i < 1000);
  }
  REQUIRE(kept.size() > 30);
  const auto zeros = must(put_as(*store, group, PageCopy{}, Admit::existing));
  CHECK(zeros.ref.id() == kZeroContent);
  for (std::uint64_t i = 0; i < kept.size(); ++i) {
    const auto equal = must(put_as(*store, group, page_of(i, kPageSize), Admit::existing));
    REQUIRE(equal.existed);
    REQUIRE(equal.ref.id() == kept[i].id());
  }
  const auto fresh = must(put_as(*store, group, page_of(5000, kPageSize), Admit::existing));
  CHECK_FALSE(fresh.ref);
  CHECK_FALSE(fresh.existed);
  CHECK(contents_of(*store, Form::raw) == kept.size());
}

TEST_CASE("what only shared pages may add is kept raw, once a second page has it") {
  auto store = must(Contents::create(kArena));
  const GroupUse group = must(store->group("a"));
  const PageCopy page = page_of(1, 64);  // it would compress well
  for (int pass = 0; pass < 5; ++pass) {
    REQUIRE_FALSE(must(put_as(*store, group, page, Admit::shared, 11)).ref);
    REQUIRE_FALSE(must(put_as(*store, group, page_of(2, 64), Admit::shared, 12)).ref);
  }
  CHECK(store->stats().arena_in_slots.value == 0);
  const PutResult second = must(put_as(*store, group, page, Admit::shared, 13));
  REQUIRE(second.ref);
  CHECK_FALSE(second.existed);
  CHECK(second.form == Form::raw);
  CHECK(contents_of(*store, Form::lz4) == 0);
  const PutResult first = must(put_as(*store, group, page, Admit::shared, 11));
  CHECK(first.existed);
  CHECK(first.ref.id() == second.ref.id());
  CHECK(holds(*store, first.ref.id(), page));
  // What others keep compressed is shared as it is.
  const PutResult others = put(*store, group, page_of(3, 64));
  CHECK(others.form == Form::lz4);
  CHECK(must(put_as(*store, group, page_of(3, 64), Admit::shared, 14)).existed);
  // Another group's pages are no twins.
  const GroupUse stranger = must(store->group("b"));
  CHECK_FALSE(must(put_as(*store, stranger, page_of(2, 64), Admit::shared, 15)).ref);
}

TEST_CASE("two equal pages of one run are found at once") {
  auto store = must(Contents::create(kArena));
  const GroupUse group = must(store->group("a"));
  std::array<PageCopy, 3> pages{page_of(1), page_of(2), page_of(1)};
  std::array<PutRequest, 3> requests;
  std::array<Result<PutResult>, 3> results;
  for (std::size_t i = 0; i < 3; ++i) requests[i] = {&pages[i], store->hash(group, pages[i]), i};
  store->put_run(group, requests, results, Admit::shared);
  CHECK_FALSE(must(std::move(results[0])).ref);
  CHECK_FALSE(must(std::move(results[1])).ref);
  CHECK(must(std::move(results[2])).ref);
}

TEST_CASE("the table of pages that asked grows with them, forgets little, and gives all back") {
  Twins twins = must(Twins::make(ByteCount{std::uint64_t{1} << 30}));
  constexpr std::uint64_t kPages = 100'000;
  CHECK(twins.bytes() == ByteCount{0});
  std::uint64_t passes = 0;
  std::uint64_t found = 0;
  // As pages ask: all firsts, then all seconds, pass after pass until each pair was found.
  std::vector<bool> paired(kPages);
  while (found < kPages && passes < 10) {
    ++passes;
    for (const std::uint64_t side : {0, 1}) {
      for (std::uint64_t i = 0; i < kPages; ++i) {
        if (paired[i] || !twins.asked_before(mix(i), i * 2 + side)) continue;
        paired[i] = true;
        ++found;
      }
    }
  }
  CHECK(found == kPages);
  CHECK(passes <= 4);
  CHECK(twins.bytes().value <= kPages * 24);
  twins.forget();
  CHECK(twins.bytes() == ByteCount{0});
  CHECK_FALSE(twins.asked_before(mix(1), 1));
}
