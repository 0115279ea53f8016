// SPDX-License-Identifier: GPL-2.0-or-later
// Many threads at once: workers put, map, unmap and drop the same pages, readers read what they
// own, and the reformer gives everything another form and place meanwhile. For ThreadSanitizer and
// AddressSanitizer, and for the invariants on their own.
#include <unistd.h>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "greedy.hpp"
#include "pages.hpp"
#include "random.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr std::size_t kThreads = 4;
constexpr std::size_t kSteps = 20'000;

struct Word {
  std::uint64_t page;
  ContentId id;
  PoolSlot slot{};  // that the page maps; 0: none
};

bool maps_its_page(int pool, const Word& w) { return slot_holds(pool, w.slot, any_page(w.page)); }

// Maps the page, or unmaps it. False when a byte was wrong, or a mapping was not counted.
bool turn(Contents& store, GroupId group, int pool, Word& w) {
  if (w.slot != PoolSlot{}) {
    if (!maps_its_page(pool, w)) return false;
    return store.unmap(group, std::exchange(w.slot, {})) == Booked::done;
  }
  Result<PoolSlot> slot;
  store.share_run(group, {&w.id, 1}, {&slot, 1});
  if (!slot) return slot.error().code == EPERM;
  w.slot = *slot;
  return maps_its_page(pool, w);
}

// Pages of a narrow range, so that threads meet in every content; false when a byte was wrong.
bool work(Contents& store, GroupId group, int pool, std::uint64_t seed, std::vector<Word>& words) {
  Random random(seed);
  for (std::size_t i = 0; i < kSteps; ++i) {
    const std::uint64_t dice = random.below(100);
    if (dice < 50 || words.empty()) {
      const std::uint64_t number = random.below(random.one_in(2) ? 20 : 20'000);
      const PageCopy page = any_page(number);
      auto result = store.put(group, page, store.hash(group, page));
      if (!result) return false;
      words.push_back({number, result->ref.release()});
    } else {
      const std::size_t at = random.below(words.size());
      if (dice >= 65 && dice < 75) {
        if (!turn(store, group, pool, words[at])) return false;
        continue;
      }
      const Word w = words[at];
      if (dice < 65) {
        if (!holds(store, w.id, any_page(w.page))) return false;
      } else {
        words[at] = words.back();
        words.pop_back();
        if (w.slot != PoolSlot{} && store.unmap(group, w.slot) != Booked::done) return false;
        store.drop(kFirstGroup, w.id);
      }
    }
    if (i % 4096 == 0) store.trim();
  }
  return true;
}

template <typename Body>
void in_threads(Body&& body) {
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) threads.emplace_back([&body, t] { body(t); });
  for (std::thread& thread : threads) thread.join();
}

// Reforms whatever pays the least, until it is told to stop.
class Reforming {
 public:
  explicit Reforming(Contents& store) : reformer_(must(Reformer::make(store))) {
    thread_ = std::thread([this] {
      ReformPolicy policy = greedy();
      for (std::uint64_t now = 1000; !stop_; now += 1000) {
        // In turn, so that moving is not left for when there is nothing else to do.
        policy.similar = policy.dense = now % 2000 == 0;
        (void)reformer_->step(policy, now, kSlice);
      }
    });
  }
  ReformFigures stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return reformer_->figures();
  }
  ReformFigures figures() const noexcept { return reformer_->figures(); }
  ~Reforming() { stop(); }
  Reforming(const Reforming&) = delete;
  Reforming& operator=(const Reforming&) = delete;

 private:
  static constexpr std::uint64_t kSlice = 20'000'000;

  std::unique_ptr<Reformer> reformer_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

std::uint64_t given_in_all(const ReformFigures& figures) {
  std::uint64_t sum = 0;
  for (const std::uint64_t n : figures.given) sum += n;
  return sum;
}

}  // namespace

TEST_CASE("threads that share every content see only right bytes and leave nothing") {
  CAPTURE(seed_of_run());
  auto store = must(Contents::create(ByteCount{512u << 20}));
  const GroupUse group = must(store->group("a"));
  std::atomic<bool> ok{true};
  std::array<std::vector<Word>, kThreads> words;
  const auto pool = must(store->pool(group));
  Reforming reforming(*store);
  in_threads([&](std::size_t t) {
    if (!work(*store, group, pool.read_only.get(), mix(seed_of_run() + t), words[t])) ok = false;
  });
  REQUIRE(ok);
  std::uint64_t references = 0;
  std::uint64_t mappings = 0;
  for (const auto& of_thread : words) {
    references += of_thread.size();
    for (const Word& w : of_thread) mappings += w.slot != PoolSlot{};
  }
  const ReformFigures figures = reforming.stop();
  CHECK(given_in_all(figures) > 100);
  CHECK(figures.moved > 0);
  Stats stats = store->stats();
  CHECK(sums_of(stats).references == references);
  CHECK(stats.pool_mappings == mappings);
  CHECK(mappings > 0);
  CHECK(stats.corrupt + stats.collisions + stats.unindexed + stats.miscounted == 0);
  in_threads([&](std::size_t t) {
    for (const Word& w : words[t]) {
      if (w.slot != PoolSlot{}) (void)store->unmap(kFirstGroup, w.slot);
      store->drop(kFirstGroup, w.id);
    }
  });
  store->trim();
  stats = store->stats();
  CHECK(stats.pool_allocated.value == kPageSize);
  CHECK(sums_of(stats).contents == 0);
  CHECK(stats.arena_in_slots.value == 0);
}

TEST_CASE("groups come and go beside each other, also two users of one name") {
  CAPTURE(seed_of_run());
  auto store = must(Contents::create(ByteCount{64u << 20}));
  std::atomic<bool> ok{true};
  in_threads([&](std::size_t t) {
    Random random(mix(seed_of_run() + t));
    for (int i = 0; i < 3000; ++i) {
      auto group =
          store->group(random.one_in(2) ? "shared" : "vm:" + std::to_string(random.next()));
      if (!group) {
        ok = false;
        continue;
      }
      const PageCopy page = any_page(random.below(4) + 1);
      auto kept = store->put(*group, page, store->hash(*group, page));
      if (!kept || !holds(*store, kept->ref.id(), page, *group)) ok = false;
      if (kept && random.one_in(4)) {
        const auto pool = store->pool(*group);
        const Ref second = store->share(*group, kept->ref.id());
        const ContentId id = kept->ref.id();
        Result<PoolSlot> slot;
        store->share_run(*group, {&id, 1}, {&slot, 1});
        if (!pool || !slot || store->unmap(*group, *slot) != Booked::done) ok = false;
      }
      if (random.one_in(50)) store->trim();
      if (random.one_in(2)) group->reset();  // then the content is its last use
    }
  });
  CHECK(ok);
  store->trim();
  const Stats stats = store->stats();
  CHECK(stats.pool_allocated.value == 0);
  CHECK(stats.groups.empty());
  CHECK(sums_of(stats).contents == 0);
  CHECK(stats.arena_in_slots.value == 0);
  CHECK(stats.corrupt + stats.miscounted == 0);
}

TEST_CASE("faults are served and references dropped while recovery runs") {
  CAPTURE(seed_of_run());
  constexpr std::uint64_t kPages = 20'000;
  auto first = must(Contents::create(ByteCount{512u << 20}));
  const GroupUse group = must(first->group("a"));
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < kPages; ++i) {
    ids.push_back(put(*first, group, any_page(i)).ref.release());
  }
  {
    Reforming reforming(*first);
    while (given_in_all(reforming.figures()) < kPages / 8) std::this_thread::yield();
  }
  auto store = must(Contents::adopt(same_files(*first)));
  first.reset();
  in_threads([&](std::size_t t) {
    for (std::uint64_t i = t; i < kPages; i += kThreads) store->count(kFirstGroup, ids[i]);
  });
  std::atomic<bool> ok{true};
  std::atomic<std::uint64_t> dropped{0};
  std::thread recovery([&] {
    if (!store->finish_recovery()) ok = false;
  });
  in_threads([&](std::size_t t) {
    for (std::uint64_t i = t; i < kPages; i += kThreads) {
      if (!holds(*store, ids[i], any_page(i))) ok = false;
      if (i % 3 != 0) continue;
      store->drop(kFirstGroup, ids[i]);
      ++dropped;
    }
  });
  recovery.join();
  REQUIRE(ok);
  const Stats stats = store->stats();
  const Sums sums = sums_of(stats);
  CHECK(sums.references == kPages - dropped);
  CHECK(sums.contents >= kPages - dropped);  // and what others refer to
  CHECK(sums.contents <= kPages - dropped + sums.referring);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    if (i % 3 != 0) REQUIRE(holds(*store, ids[i], any_page(i)));
    if (i % 3 != 0) store->drop(kFirstGroup, ids[i]);
  }
  CHECK(store->stats().arena_in_slots.value == 0);
}
