// SPDX-License-Identifier: GPL-2.0-or-later
// Folds pages and brings them back, on a real process with a real userfaultfd, without a daemon.
#include <catch2/catch.hpp>

#include "kernel/fold_rig.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using guest::Tag;
using test::Rig;

TEST_CASE("pages fold after they stayed the same, and come back byte for byte") {
  Rig rig(64);
  for (std::uint64_t p = 0; p < 48; ++p)
    rig.process->store(PageIndex{p}, p % 3 == 0 ? 0 : p % 8 + 1);
  rig.pass();
  CHECK(rig.tag(1) == Tag::observed);
  rig.pass();
  for (std::uint64_t p = 0; p < 48; ++p) REQUIRE(rig.tag(p) == Tag::folded);
  CHECK(rig.tag(50) == Tag::none);  // never touched
  CHECK(rig.vm->counters().folded_zero.get() == 16);
  CHECK(rig.contents->stats().forms[2].contents == 8);
  for (std::uint64_t p = 0; p < 48; ++p) {
    REQUIRE(rig.process->load(PageIndex{p}) ==
            test::GuestProcess::checksum(p % 3 == 0 ? 0 : p % 8 + 1));
  }
  SECTION("a read leaves a clean page, which folds again without encoding") {
    CHECK(rig.tag(1) == Tag::clean);
    const auto stored =
        rig.vm->counters().folds_stored.get() + rig.vm->counters().folds_shared.get();
    for (int i = 0; i < 6; ++i) rig.pass();
    CHECK(rig.tag(1) == Tag::folded);
    CHECK(rig.vm->counters().folds_stored.get() + rig.vm->counters().folds_shared.get() == stored);
    CHECK(rig.process->load(PageIndex{1}) == test::GuestProcess::checksum(2));
  }
  SECTION("a write to a clean page clears its word first") {
    rig.process->store(PageIndex{1}, 77);
    CHECK(rig.tag(1) == Tag::none);
    CHECK(rig.process->load(PageIndex{1}) == test::GuestProcess::checksum(77));
  }
}

TEST_CASE("a write to a folded page changes only that page") {
  Rig rig(32);
  for (std::uint64_t p = 0; p < 32; ++p) rig.process->store(PageIndex{p}, 5);
  rig.pass();
  rig.pass();
  REQUIRE(rig.tag(9) == Tag::folded);
  rig.process->store(PageIndex{9}, 6);
  CHECK(rig.tag(9) == Tag::none);
  for (std::uint64_t p = 0; p < 32; ++p) {
    REQUIRE(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(p == 9 ? 6 : 5));
  }
}

TEST_CASE("pages that come back soon are held back, and counted") {
  Rig rig(32);
  rig.rule.passes_max = guest::Word::kAgeMax;
  for (std::uint64_t p = 0; p < 32; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.fold_until(32);
  CHECK(rig.held == 0);
  for (std::uint64_t p = 0; p < 3; ++p) (void)rig.process->load(PageIndex{p});
  rig.process->store(PageIndex{3}, 77);
  rig.pass();
  CHECK(rig.held == 4);
  CHECK(rig.vm->counters().returned_soon.get() == 4);
  SECTION("until they are folded again") {
    rig.fold_until(32);
    rig.pass();
    CHECK(rig.held == 0);
  }
  SECTION("not by a rule without back-off") {
    rig.rule.passes_max = rig.rule.passes;
    rig.pass();
    CHECK(rig.held == 0);
  }
  SECTION("but not for longer than the rule says") {
    rig.rule.passes_max = 4;
    for (int i = 0; i < 6; ++i) {
      rig.fold_until(32);
      for (std::uint64_t p = 0; p < 3; ++p) (void)rig.process->load(PageIndex{p});
    }
    for (int i = 0; i < 8; ++i) rig.pass();
    for (std::uint64_t p = 0; p < 3; ++p) CHECK(rig.tag(p) == Tag::folded);
  }
}

TEST_CASE("first touches of RAM in a row are filled in growing runs") {
  constexpr std::uint64_t kPages = 1024;
  Rig rig(kPages);
  SECTION("nothing is registered, so nobody faults here, before a page is folded") {
    for (std::uint64_t p = 0; p < kPages; ++p) (void)rig.process->load(PageIndex{p});
    CHECK(rig.vm->counters().faults_zero.get() == 0);
  }
  SECTION("in a chunk of which a page is folded") {
    rig.process->store(PageIndex{0}, 5);
    rig.fold_until(1);
    for (std::uint64_t p = 1; p < kPages; ++p) {
      REQUIRE(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(0));
    }
    CHECK(rig.vm->counters().zero_filled.get() >= kPages - 1);
    CHECK(rig.vm->counters().faults_zero.get() < kPages / 4);
  }
}

TEST_CASE("a closed gate folds nothing") {
  Rig rig(16);
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, 5);
  rig.vm->gate().close();
  for (int i = 0; i < 4; ++i) rig.pass();
  for (std::uint64_t p = 0; p < 16; ++p) CHECK(rig.tag(p) == Tag::observed);
}

TEST_CASE("a discarded page is zero whatever its word says") {
  Rig rig(16);
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, 5);
  rig.pass();
  rig.pass();
  REQUIRE(rig.tag(3) == Tag::folded);
  rig.set_discard_bit(3);
  rig.process->discard(PageIndex{3});
  CHECK(rig.process->load(PageIndex{3}) == test::GuestProcess::checksum(0));
  CHECK(rig.process->load(PageIndex{4}) == test::GuestProcess::checksum(5));
  CHECK_FALSE(rig.vm->table().discarded(PageIndex{3}));
}

TEST_CASE("detaching brings everything back") {
  Rig rig(64);
  for (std::uint64_t p = 0; p < 64; ++p) rig.process->store(PageIndex{p}, p % 2 == 0 ? 0 : p);
  rig.pass();
  rig.pass();
  rig.vm->gate().close();
  fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
  for (std::uint64_t p = 0; p < 64; ++p) {
    REQUIRE(rig.faults->filler().unfold(PageIndex{p}, {}, me) == fault::Served::filled);
  }
  REQUIRE(rig.vm->unregister_all().has_value());
  rig.faults->stop();
  for (std::uint64_t p = 0; p < 64; ++p) {
    REQUIRE(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(p % 2 == 0 ? 0 : p));
  }
  CHECK(rig.contents->stats().forms[2].contents == 0);
}
