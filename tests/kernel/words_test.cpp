// SPDX-License-Identifier: GPL-2.0-or-later
// The words of RAM that a guest gave back are freed, while other threads use the page table (L11).
#include <sys/stat.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>
#include <functional>
#include <thread>

#include "base/clock.hpp"
#include "kernel/at_point.hpp"
#include "kernel/fold_rig.hpp"
#include "patience.hpp"

using namespace ramfold;
using guest::Owner;
using guest::Tag;
using test::AtPoint;
using test::fold_nine;
using test::GuestProcess;
using test::kNine;
using test::Rig;
using test::soon;

namespace {

std::uint64_t sum_of(std::uint64_t seed) { return GuestProcess::checksum(seed); }

}  // namespace

namespace {

constexpr std::uint64_t kWords = guest::Vm::kWordsAPage;

// src/agent/discard.c, in short.
void discard_as_the_agent(Rig& rig, PageIndex p) {
  rf_shared& shared = rig.vm->table().shared();
  shared.discards_active.fetch_add(1);
  rig.set_discard_bit(p.value);
  for (rf_filling& filling : shared.filling) {
    const std::uint32_t seen = filling.word.load();
    while (seen % 2 == 1 && filling.word.load() == seen) ::sched_yield();
  }
  rig.process->discard(p);
  shared.discards_active.fetch_sub(1);
}

std::uint64_t words_bytes(const guest::Vm& vm) {
  struct stat st{};
  REQUIRE(::fstat(vm.files().words.get(), &st) == 0);
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}

}  // namespace

TEST_CASE("the words of RAM that a guest gave back take no memory") {
  Rig rig(4 * kWords + 3);
  const std::uint64_t pages = rig.vm->pages().value;
  for (std::uint64_t p = 0; p < pages; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.rule = {4, 4};
  rig.pass();
  CHECK(words_bytes(*rig.vm) == 5 * kPageSize);
  for (std::uint64_t p = 0; p < pages; ++p) rig.process->discard(PageIndex{p});
  for (std::uint64_t p = 0; p < pages; p += kWords) CHECK(rig.vm->free_words(PageIndex{p}));
  CHECK(words_bytes(*rig.vm) == 0);
  // There is nothing left to give back, and asking for it takes no memory either.
  for (std::uint64_t p = 0; p < pages; p += kWords) CHECK_FALSE(rig.vm->free_words(PageIndex{p}));
  CHECK(words_bytes(*rig.vm) == 0);
  CHECK(rig.process->load(PageIndex{7}) == sum_of(0));
  rig.process->store(PageIndex{7}, 70);
  CHECK(rig.process->load(PageIndex{7}) == sum_of(70));
}

TEST_CASE("words that name a content, and what a page waits for, are never given back") {
  Rig rig(2 * kWords);
  fold_nine(rig);
  rig.process->store(PageIndex{kWords + 5}, 3);
  CHECK_FALSE(rig.vm->free_words(PageIndex{0}));
  // Its owner is at work on one of them.
  REQUIRE(soon([&] { return rig.vm->table().take_for_fold(PageIndex{kWords + 5}); }));
  CHECK_FALSE(rig.vm->free_words(PageIndex{kWords}));
  REQUIRE(rig.vm->table().give_up_fold(PageIndex{kWords + 5}));
  CHECK(rig.process->load(kNine) == sum_of(5));
}

TEST_CASE("a page that is folded while words are given back keeps its bytes") {
  // Its chunk is not registered, so that nothing tells of the store.
  Rig rig(kWords);
  for (std::uint64_t p = 0; p < kWords; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.rule = {4, 4};
  rig.pass();
  for (std::uint64_t p = 0; p < kWords; ++p) rig.process->discard(PageIndex{p});
  rig.rule = {1, 1};
  AtPoint point("words.free", [&] {
    rig.process->store(kNine, 77);
    rig.fold_all();
  });
  CHECK(rig.vm->free_words(PageIndex{0}));
  REQUIRE(point.passed());
  CHECK(rig.process->load(kNine) == sum_of(77));
  for (int i = 0; i < 100 && rig.tag(kNine.value) != Tag::folded; ++i) rig.pass();
  CHECK(rig.tag(kNine.value) == Tag::folded);
  CHECK(rig.process->load(kNine) == sum_of(77));
}

TEST_CASE("who faults at a page while words are given back is woken") {
  Rig rig(kWords);
  fold_nine(rig);
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, p + 1);
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->discard(PageIndex{p});
  REQUIRE(soon([&] {
    for (std::uint64_t p = 0; p < 16; ++p) {
      if (rig.vm->table().owner(PageIndex{p}) != Owner::idle) return false;
    }
    return true;
  }));
  const std::uint64_t busy = rig.vm->counters().faults_busy.get();
  AtPoint point("words.free", [&] {
    rig.process->load_apart(kNine, 1);
    CHECK(soon([&] { return rig.vm->counters().faults_busy.get() > busy; }));
  });
  CHECK(rig.vm->free_words(PageIndex{0}));
  REQUIRE(point.passed());
  const auto sum = rig.process->collect(20'000);
  REQUIRE(sum.has_value());
  CHECK(*sum == sum_of(0));
}

TEST_CASE("words are given back beside folds, faults and discards: no wrong byte") {
  constexpr std::array<std::uint64_t, 2> kUsed{3, 300};
  Rig rig(kWords);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> freed{0};
  std::thread freeing([&] {
    while (!stop) freed += rig.vm->free_words(PageIndex{0}) ? 1 : 0;
  });
  std::thread folding([&] {
    while (!stop) rig.pass();
  });
  std::array<std::uint64_t, kUsed.size()> seeds{};
  std::uint64_t state = 1;
  const auto random = [&] {
    return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33;
  };
  std::uint64_t wrong = 0;
  const Counter& folds = rig.vm->counters().folds_stored;
  const auto enough = [&] { return freed >= 20 && folds.get() >= 20; };
  for (std::uint64_t i = 1; i <= 4000 || (!enough() && i < 1'000'000); ++i) {
    const std::size_t which = random() % kUsed.size();
    const PageIndex p{kUsed[which]};
    switch (random() % 4) {
      case 0:
        rig.process->store(p, i);
        seeds[which] = i;
        break;
      case 1:
        discard_as_the_agent(rig, p);
        seeds[which] = 0;
        break;
      default: wrong += rig.process->load(p) == sum_of(seeds[which]) ? 0 : 1;
    }
  }
  stop = true;
  freeing.join();
  folding.join();
  CHECK(wrong == 0);
  CHECK(enough());
}
