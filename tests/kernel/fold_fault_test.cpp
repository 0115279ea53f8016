// SPDX-License-Identifier: GPL-2.0-or-later
// Down and up on a real process with a real userfaultfd, without a daemon around them.
#include <catch2/catch.hpp>

#include <chrono>
#include <thread>

#include "fault/server.hpp"
#include "fold/folder.hpp"
#include "kernel/guest_process.hpp"
#include "scan/plan.hpp"

using namespace ramfold;
using guest::Tag;

namespace {

struct Rig {
  std::unique_ptr<test::GuestProcess> process;
  std::unique_ptr<guest::Vm> vm;
  std::unique_ptr<store::Contents> contents = std::move(*store::Contents::create(ByteCount{1u << 30}));
  std::unique_ptr<fault::Server> faults;
  std::unique_ptr<fold::Folder> folder = std::make_unique<fold::Folder>(*contents);
  GroupId group = *contents->group("test");
  scan::ColdRule rule{1, true};

  explicit Rig(std::uint64_t pages) {
    process = test::GuestProcess::start(PageCount{pages});
    vm = process->make_vm(1);
    vm->gate().open(0);
    faults = std::move(*fault::Server::start(*vm, *contents, 1));
  }
  // One pass over everything.
  void pass() {
    scan::Planner planner;
    auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
    vm->next_pass();
    for (std::size_t chunk = 0; chunk < scan::chunk_count(*vm); ++chunk) {
      const auto n = planner.plan(*vm, chunk, rule, *windows);
      REQUIRE(n.has_value());
      for (std::size_t i = 0; i < *n; ++i) folder->work(*vm, group, (*windows)[i], {}, true);
    }
  }
  Tag tag(std::uint64_t p) { return vm->table().load(PageIndex{p}).tag(); }
};

}  // namespace

TEST_CASE("pages fold after they stayed the same, and come back byte for byte") {
  Rig rig(64);
  for (std::uint64_t p = 0; p < 48; ++p) rig.process->store(PageIndex{p}, p % 3 == 0 ? 0 : p % 8 + 1);
  rig.pass();
  CHECK(rig.tag(1) == Tag::observed);
  rig.pass();
  for (std::uint64_t p = 0; p < 48; ++p) REQUIRE(rig.tag(p) == Tag::folded);
  CHECK(rig.tag(50) == Tag::none);  // never touched
  CHECK(rig.vm->counters().folded_zero.get() == 16);
  CHECK(rig.contents->stats().forms[2].contents == 8);
  for (std::uint64_t p = 0; p < 48; ++p) {
    REQUIRE(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(p % 3 == 0 ? 0 : p % 8 + 1));
  }
  SECTION("a read leaves a clean page, which folds again without encoding") {
    CHECK(rig.tag(1) == Tag::clean);
    const auto stored = rig.vm->counters().folds_stored.get() + rig.vm->counters().folds_shared.get();
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
  auto* bitmap = reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::byte*>(&rig.vm->table().shared()) + RF_SHARED_PAGE);
  bitmap[0] |= 1u << 3;
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
  PageCopy buffer;
  for (std::uint64_t p = 0; p < 64; ++p) {
    REQUIRE(rig.faults->filler().unfold(PageIndex{p}, {}, buffer) == fault::Served::filled);
  }
  REQUIRE(rig.vm->unregister_all().has_value());
  rig.faults->stop();
  for (std::uint64_t p = 0; p < 64; ++p) {
    REQUIRE(rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(p % 2 == 0 ? 0 : p));
  }
  CHECK(rig.contents->stats().forms[2].contents == 0);
}
