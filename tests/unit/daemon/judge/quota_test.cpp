// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/quota.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using daemon::judge_keeps;
using daemon::KeepsOf;
using daemon::TooMuch;

namespace {

constexpr std::uint64_t kMiB = 1u << 20;

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
  return {account, GroupId{group}, naming, ByteCount{table}, ByteCount{0}, ByteCount{256 * kMiB}};
}

}  // namespace

TEST_CASE("what a group stores is its VMs', by the pages that each has there") {
  const store::Stats stats = stats_of({90 * kMiB, 50 * kMiB}, 1024 * kMiB);
  const std::vector vms{vm(1, 0, 1000), vm(1, 0, 2000), vm(2, 1, 7), vm(2, 1, 0)};
  const auto verdicts = judge_keeps(vms, stats, 1);
  CHECK(verdicts[0].stored == ByteCount{30 * kMiB});
  CHECK(verdicts[1].stored == ByteCount{60 * kMiB});
  CHECK(verdicts[2].stored == ByteCount{50 * kMiB});
  CHECK(verdicts[3].stored == ByteCount{0});
  for (const auto& verdict : verdicts) {
    CHECK(verdict.limit == ByteCount{256 * kMiB});
    CHECK(verdict.too_much == TooMuch::nothing);
  }
}

TEST_CASE("a VM that makes ramfold keep more than its quota is told apart from its neighbours") {
  const store::Stats stats = stats_of({250 * kMiB, 250 * kMiB}, 1u << 30);
  const std::vector vms{vm(1, 0, 1, 7 * kMiB), vm(2, 1, 1, 1 * kMiB)};
  const auto verdicts = judge_keeps(vms, stats, 1);
  CHECK(verdicts[0].too_much == TooMuch::of_vm);
  CHECK(verdicts[1].too_much == TooMuch::nothing);
  CHECK(judge_keeps(vms, stats, 2)[0].too_much == TooMuch::nothing);
}

TEST_CASE("an owner leaves an eighth of the store to others, however many VMs it has") {
  const store::Stats stats = stats_of({60 * kMiB, 30 * kMiB, 2 * kMiB}, 100 * kMiB);
  const std::vector vms{vm(1, 0, 1), vm(1, 1, 1), vm(2, 2, 1)};
  const auto verdicts = judge_keeps(vms, stats, 1);
  CHECK(verdicts[0].too_much == TooMuch::of_owner);
  CHECK(verdicts[1].too_much == TooMuch::of_owner);
  CHECK(verdicts[2].too_much == TooMuch::nothing);
}
