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
    bool kept, is_short;
  };
  // Guests fill the memory; folding gives some back; then something else takes it all.
  constexpr std::array kTrace{
      Step{900, 0, 0, true, false},  Step{201, 0, 0, true, false},   Step{200, 0, 0, true, true},
      Step{180, 0, 100, true, true}, Step{190, 0, 140, true, true},  Step{190, 0, 141, false, true},
      Step{60, 0, 141, false, true}, Step{60, 131, 141, true, true}, Step{40, 0, 0, true, true},
      Step{40, 0, 1, false, true},   Step{500, 0, 141, true, false},
  };
  for (std::size_t i = 0; i < kTrace.size(); ++i) {
    const Step& step = kTrace[i];
    INFO("step " << i);
    const MemoryVerdict verdict =
        judge(kTargets, {ByteCount{step.available}, ByteCount{step.swap}}, ByteCount{step.needed});
    CHECK(verdict.promise_kept == step.kept);
    CHECK((verdict.memory == Memory::is_short) == step.is_short);
    CHECK(needs_folding(FoldWhen::pressure, verdict.memory) == step.is_short);
    CHECK(needs_folding(FoldWhen::eager, verdict.memory));
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
  CHECK(judge(kTargets, {ByteCount{213}, {}}, {}, Memory::is_short).memory == Memory::enough);
  CHECK(judge(kTargets, {ByteCount{201}, {}}, {}, Memory::enough).memory == Memory::enough);
}

TEST_CASE("where tasks wait for memory it is short, whatever is said to be available") {
  struct Step {
    unsigned stalled_permille;
    bool is_short;
  };
  constexpr std::array kTrace{Step{0, false}, Step{99, false}, Step{100, true}, Step{400, true},
                              Step{50, true}, Step{10, true},  Step{9, false},  Step{99, false}};
  Memory memory = Memory::enough;
  for (const Step& step : kTrace) {
    INFO(step.stalled_permille);
    const MemoryVerdict verdict =
        judge(kTargets, {ByteCount{900}, {}, step.stalled_permille}, {}, memory);
    CHECK((verdict.memory == Memory::is_short) == step.is_short);
    memory = verdict.memory;
  }
}

TEST_CASE("the promise holds up to the last byte beyond the reserve") {
  CHECK(judge(kTargets, {ByteCount{900}, {}}, ByteCount{850}).promise_kept);
  CHECK_FALSE(judge(kTargets, {ByteCount{900}, {}}, ByteCount{851}).promise_kept);
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
