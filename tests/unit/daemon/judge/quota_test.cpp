// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/quota.hpp"

#include <catch2/catch.hpp>

#include "scan/history.hpp"
#include "scan/rests.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using daemon::judge_keeps;
using daemon::KeepsOf;
using daemon::TooMuch;

namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr daemon::KeepsLimits kLimits{1, ByteCount{16384 * kMiB}};

store::Stats stats_of(std::initializer_list<std::uint64_t> stored, std::uint64_t arena_max) {
  store::Stats stats;
  stats.arena_max = ByteCount{arena_max};
  for (const std::uint64_t bytes : stored) {
    store::GroupStats& group = stats.groups.emplace_back();
    group.group = GroupId{static_cast<std::uint16_t>(stats.groups.size() - 1)};
    group.forms[1].stored = ByteCount{bytes / 2};
    group.forms[2].stored = ByteCount{bytes - bytes / 2};
  }
  return stats;
}

KeepsOf vm(uid_t account, std::uint16_t group, std::uint64_t naming, std::uint64_t table = 0) {
  return {account,      GroupId{group},       naming, ByteCount{table}, ByteCount{0},
          ByteCount{0}, ByteCount{256 * kMiB}};
}

}  // namespace

TEST_CASE("what a group stores is its VMs', by the pages that each has there") {
  const store::Stats stats = stats_of({90 * kMiB, 50 * kMiB}, 1024 * kMiB);
  const std::vector vms{vm(1, 0, 1000), vm(1, 0, 2000), vm(2, 1, 7), vm(2, 1, 0)};
  const auto verdicts = judge_keeps(vms, stats, kLimits);
  CHECK(verdicts[0].stored == ByteCount{30 * kMiB});
  CHECK(verdicts[1].stored == ByteCount{60 * kMiB});
  CHECK(verdicts[2].stored == ByteCount{50 * kMiB});
  CHECK(verdicts[3].stored == ByteCount{0});
  for (const auto& verdict : verdicts) {
    // Its RAM, eight bytes and a bit a page, the page that the agent shares, and the notes.
    CHECK(verdict.limit.value ==
          256 * kMiB + 65536 * 8 + 65536 / 8 + 4096 + daemon::notes_max(PageCount{65536}).value);
    CHECK(verdict.too_much == TooMuch::nothing);
  }
}

TEST_CASE("a VM that makes ramfold keep more than its quota is told apart from its neighbours") {
  const store::Stats stats = stats_of({250 * kMiB, 250 * kMiB}, 1u << 30);
  const std::vector vms{vm(1, 0, 1, 8 * kMiB), vm(2, 1, 1, 1 * kMiB)};
  const auto verdicts = judge_keeps(vms, stats, kLimits);
  CHECK(verdicts[0].too_much == TooMuch::of_vm);
  CHECK(verdicts[1].too_much == TooMuch::nothing);
  CHECK(judge_keeps(vms, stats, {2, kLimits.host_ram})[0].too_much == TooMuch::nothing);
}

TEST_CASE("an owner leaves an eighth of the store to others, however many VMs it has") {
  const store::Stats stats = stats_of({60 * kMiB, 30 * kMiB, 2 * kMiB}, 100 * kMiB);
  const std::vector vms{vm(1, 0, 1), vm(1, 1, 1), vm(2, 2, 1)};
  const auto verdicts = judge_keeps(vms, stats, kLimits);
  CHECK(verdicts[0].too_much == TooMuch::of_owner);
  CHECK(verdicts[1].too_much == TooMuch::of_owner);
  CHECK(verdicts[2].too_much == TooMuch::nothing);
}

TEST_CASE("a VM whose pages are all stored as they are stays within its quota") {
  constexpr std::uint64_t kPages = 65536;
  const store::Stats stats = stats_of({kPages * kPageSize}, std::uint64_t{1} << 40);
  KeepsOf all = vm(1, 0, kPages);
  all.page_table = guest::PageTable::words_size(PageCount{kPages});
  all.bitmap = guest::PageTable::shared_size(PageCount{kPages});
  all.notes = daemon::notes_max(PageCount{kPages});
  CHECK(judge_keeps(std::vector{all}, stats, kLimits)[0].too_much == TooMuch::nothing);
  all.notes.value += 1;
  CHECK(judge_keeps(std::vector{all}, stats, kLimits)[0].too_much == TooMuch::of_vm);
}

TEST_CASE("notes on pages count against the VM's quota and the owner's share of the host") {
  const store::Stats stats = stats_of({250 * kMiB, 250 * kMiB}, std::uint64_t{1} << 40);
  std::vector vms{vm(1, 0, 1), vm(2, 1, 1)};
  vms[0].notes = ByteCount{8 * kMiB};
  auto verdicts = judge_keeps(vms, stats, kLimits);
  CHECK(verdicts[0].too_much == TooMuch::of_vm);
  CHECK(verdicts[1].too_much == TooMuch::nothing);
  vms[0].notes = ByteCount{std::uint64_t{1025} * kMiB};  // more than half of an eighth of 16 GiB
  verdicts = judge_keeps(vms, stats, kLimits);
  CHECK(verdicts[0].too_much == TooMuch::of_tables);
  CHECK(verdicts[1].too_much == TooMuch::nothing);
}

TEST_CASE("notes take memory for pages and chunks that were looked at, and only that is counted") {
  constexpr PageCount kPages{1u << 20};
  const auto words =
      sys::make_memfd("words", guest::PageTable::words_size(kPages), sys::Sealed::no);
  const auto shared =
      sys::make_memfd("shared", guest::PageTable::shared_size(kPages), sys::Sealed::no);
  REQUIRE((words && shared));
  auto table = guest::PageTable::open(*words, *shared, kPages, 1);
  REQUIRE(table);
  CHECK(table->owners_in_memory().value == 0);
  for (const std::uint64_t p : {0u, 5u, 70000u, (1u << 20) - 1}) {
    REQUIRE(table->take_idle_for_fill(PageIndex{p}));
    CHECK(table->release(PageIndex{p}) == guest::Released::quiet);
  }
  CHECK(table->owners_in_memory().value >= 3 * kPageSize);
  CHECK(table->owners_in_memory() <= guest::PageTable::owners_size(kPages));

  auto history = scan::History::make(kPages);
  REQUIRE(history);
  CHECK(history->in_memory().value == 0);
  history->ask(PageIndex{70000});
  CHECK(history->in_memory().value >= kPageSize);
  CHECK(history->in_memory() <= scan::History::size(kPages));

  auto rests = scan::Rests::make(1u << 20);
  REQUIRE(rests);
  CHECK(rests->in_memory().value == 0);
  rests->looked(7, {}, 1);
  CHECK(rests->in_memory().value >= kPageSize);
  CHECK(rests->in_memory() <= scan::Rests::size(1u << 20));
}

TEST_CASE("the page tables of one owner's VMs take no more than its share of the host") {
  // An eighth of 16 GiB is for tables, half of that for one owner.
  const store::Stats stats = stats_of({0, 0}, std::uint64_t{1} << 40);
  std::vector<KeepsOf> vms;
  for (int i = 0; i < 8; ++i) vms.push_back(vm(1, 0, 0, 128 * kMiB));
  vms.push_back(vm(2, 1, 0, 100 * kMiB));
  for (KeepsOf& each : vms) each.ram = ByteCount{std::uint64_t{64} << 30};
  auto verdicts = judge_keeps(vms, stats, kLimits);
  for (std::size_t i = 0; i < 8; ++i) CHECK(verdicts[i].too_much == TooMuch::of_tables);
  CHECK(verdicts[8].too_much == TooMuch::nothing);
  vms.erase(vms.begin());
  verdicts = judge_keeps(vms, stats, kLimits);
  for (const auto& verdict : verdicts) CHECK(verdict.too_much == TooMuch::nothing);
}
