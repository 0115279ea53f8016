// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/pressure.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <limits>

using namespace ramfold;
using namespace ramfold::policy;

namespace {

constexpr HostTargets kTargets{FoldWhen::pressure, ByteCount{200}, ByteCount{50}, ByteCount{0}};

}  // namespace

TEST_CASE(
    "a host that fills up is folded from its target on, and no longer than it can be undone") {
  struct Step {
    std::uint64_t available, swap, needed;
    bool kept, plentiful;
  };
  // Guests fill the memory; folding gives some back; then something else takes it all.
  constexpr std::array kTrace{
      Step{900, 0, 0, true, true},    Step{201, 0, 0, true, true},
      Step{200, 0, 0, true, false},   Step{180, 0, 100, true, false},
      Step{190, 0, 140, true, false}, Step{190, 0, 141, false, false},
      Step{60, 0, 141, false, false}, Step{60, 131, 141, true, false},
      Step{40, 0, 0, true, false},    Step{40, 0, 1, false, false},
      Step{500, 0, 141, true, true},
  };
  for (std::size_t i = 0; i < kTrace.size(); ++i) {
    const Step& step = kTrace[i];
    INFO("step " << i);
    const MemoryVerdict verdict =
        judge(kTargets, {ByteCount{step.available}, ByteCount{step.swap}}, ByteCount{step.needed});
    CHECK(verdict.promise_kept == step.kept);
    CHECK(verdict.plentiful == step.plentiful);
    CHECK(verdict.may_fold() == (step.kept && !step.plentiful));
  }
}

TEST_CASE("around its target a host does not start and stop folding all the time") {
  // Folding gives back a little each second, guests take it again.
  Memory memory = Memory::enough;
  unsigned changes = 0;
  for (unsigned second = 0; second < 600; ++second) {
    const std::uint64_t available =
        memory == Memory::is_short ? 201 + second % 3 : 199 - second % 3;
    const Memory next = judge(kTargets, {ByteCount{available}, {}}, {}, memory).memory;
    changes += next != memory;
    memory = next;
  }
  CHECK(changes == 1);
  CHECK(judge(kTargets, {ByteCount{212}, {}}, {}, Memory::is_short).memory == Memory::is_short);
  CHECK(judge(kTargets, {ByteCount{213}, {}}, {}, Memory::is_short).plentiful);
  CHECK(judge(kTargets, {ByteCount{201}, {}}, {}, Memory::enough).plentiful);
}

TEST_CASE("where tasks wait for memory it is short, whatever is said to be available") {
  struct Step {
    unsigned stalled_permille;
    bool plentiful;
  };
  constexpr std::array kTrace{Step{0, true},   Step{99, true},  Step{100, false}, Step{400, false},
                              Step{50, false}, Step{10, false}, Step{9, true},    Step{99, true}};
  Memory memory = Memory::enough;
  for (const Step& step : kTrace) {
    INFO(step.stalled_permille);
    const MemoryVerdict verdict =
        judge(kTargets, {ByteCount{900}, {}, step.stalled_permille}, {}, memory);
    CHECK(verdict.plentiful == step.plentiful);
    memory = verdict.memory;
  }
}

TEST_CASE("eager folding knows no plenty, and keeps the promise") {
  HostTargets targets = kTargets;
  targets.when = FoldWhen::eager;
  CHECK(judge(targets, {ByteCount{900}, {}}, ByteCount{850}).may_fold());
  CHECK_FALSE(judge(targets, {ByteCount{900}, {}}, ByteCount{851}).may_fold());
}

TEST_CASE("what may be promised beyond the host's memory counts for the promise alone") {
  HostTargets targets = kTargets;
  targets.unbacked_max = ByteCount{1000};
  const MemorySample sample{ByteCount{100}, ByteCount{20}};
  CHECK(judge(targets, sample, ByteCount{1070}).promise_kept);
  CHECK_FALSE(judge(targets, sample, ByteCount{1071}).promise_kept);
  CHECK(room_for_unfolding(targets, sample, Reserve::left_alone) == ByteCount{70});
  CHECK(room_for_unfolding(targets, sample, Reserve::used) == ByteCount{120});
  CHECK(room_for_unfolding(targets, {ByteCount{30}, {}}, Reserve::left_alone) == ByteCount{0});
}

TEST_CASE("figures beyond what a host has do not wrap round") {
  constexpr ByteCount kMost{std::numeric_limits<std::uint64_t>::max()};
  HostTargets targets = kTargets;
  targets.unbacked_max = kMost;
  CHECK(judge(targets, {kMost, kMost}, kMost).promise_kept);
  CHECK(room_for_unfolding(targets, {kMost, kMost}, Reserve::used) == kMost);
}
