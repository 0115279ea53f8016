// SPDX-License-Identifier: GPL-2.0-or-later
// Fairness of the scan on a simulated clock: the only time that passes is what the work costs.
#include "scan/turns.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <vector>

using namespace ramfold;
using scan::kQuantumNs;
using scan::Turns;

namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kNoEnd = UINT64_MAX;

// VMs with so many chunks of work of one cost each, and a clock that only their work moves.
class Simulation {
 public:
  void add(std::uint32_t vm, uid_t owner, std::uint64_t cost_ns, std::uint64_t chunks = kNoEnd) {
    vms_[vm] = {owner, cost_ns, chunks, 0};
    announce();
  }
  void remove(std::uint32_t vm) {
    vms_.erase(vm);
    announce();
  }
  void give(std::uint32_t vm, std::uint64_t chunks) { vms_[vm].chunks = chunks; }
  // False: nobody has work.
  bool step() {
    std::uint32_t chosen = 0;
    const bool any = turns_.next([&](VmId id) {
      ++asked_;
      Vm& vm = vms_.at(id.value);
      if (vm.chunks == 0) return false;
      if (vm.chunks != kNoEnd) --vm.chunks;
      chosen = id.value;
      return true;
    });
    if (!any) return false;
    Vm& vm = vms_.at(chosen);
    vm.used_ns += vm.cost_ns;
    now_ns_ += vm.cost_ns;
    turns_.charge({VmId{chosen}, vm.owner}, vm.cost_ns);
    return true;
  }
  void run(std::uint64_t for_ns) {
    for (const std::uint64_t until = now_ns_ + for_ns; now_ns_ < until && step();) {
    }
  }
  std::uint64_t used_by(uid_t owner) const {
    std::uint64_t sum = 0;
    for (const auto& [id, vm] : vms_) sum += vm.owner == owner ? vm.used_ns : 0;
    return sum;
  }
  std::uint64_t used(std::uint32_t vm) const { return vms_.at(vm).used_ns; }
  std::uint64_t now() const { return now_ns_; }
  std::uint64_t asked() const { return asked_; }

 private:
  struct Vm {
    uid_t owner = 0;
    std::uint64_t cost_ns = 0;
    std::uint64_t chunks = 0;
    std::uint64_t used_ns = 0;
  };
  void announce() {
    std::vector<Turns::Member> members;
    for (const auto& [id, vm] : vms_) members.push_back({VmId{id}, vm.owner});
    turns_.set(members);
  }
  Turns turns_;
  std::map<std::uint32_t, Vm> vms_;
  std::uint64_t now_ns_ = 0;
  std::uint64_t asked_ = 0;
};

// Both within what a turn and the last piece of work may be too long.
void check_equal(std::uint64_t a, std::uint64_t b, std::uint64_t longest_ns) {
  const std::uint64_t apart = a > b ? a - b : b - a;
  CHECK(apart <= 2 * static_cast<std::uint64_t>(kQuantumNs) + longest_ns);
}

}  // namespace

TEST_CASE("an owner with 400 VMs gets the time of an owner with one") {
  Simulation s;
  for (std::uint32_t vm = 1; vm <= 400; ++vm) s.add(vm, 1000, kMs);
  s.add(401, 1001, kMs);
  s.run(60'000 * kMs);
  check_equal(s.used_by(1000), s.used_by(1001), kMs);
  // And its VMs share what it gets.
  for (std::uint32_t vm = 1; vm <= 400; ++vm) CHECK(s.used(vm) >= 60 * kMs);
}

TEST_CASE("owners get equal time whatever their chunks cost") {
  Simulation s;
  s.add(1, 1000, 3 * kMs);
  s.add(2, 1001, 70 * kMs);
  s.add(3, 1002, kMs / 10);
  s.run(60'000 * kMs);
  check_equal(s.used(1), s.used(2), 70 * kMs);
  check_equal(s.used(1), s.used(3), 70 * kMs);
}

TEST_CASE("a small VM's pass ends beside one whose pass never does") {
  Simulation s;
  s.add(1, 1000, 2 * kMs);
  s.add(2, 1001, 2 * kMs, 0);
  for (int pass = 0; pass < 10; ++pass) {
    s.run(100 * kMs);
    const std::uint64_t began_ns = s.now();
    const std::uint64_t had_ns = s.used(2);
    s.give(2, 100);
    while (s.used(2) < had_ns + 200 * kMs) REQUIRE(s.step());
    CHECK(s.now() - began_ns <= 2 * 200 * kMs + 2 * static_cast<std::uint64_t>(kQuantumNs));
  }
}

TEST_CASE("who comes late or rested has no credit, and who was there has no debt for it") {
  Simulation s;
  s.add(1, 1000, kMs);
  s.run(1'000'000 * kMs);
  s.add(2, 1001, kMs);
  const std::uint64_t before_ns = s.used(1);
  s.run(1'000 * kMs);
  check_equal(s.used(1) - before_ns, s.used(2), kMs);

  s.give(2, 0);
  s.run(1'000'000 * kMs);
  s.give(2, kNoEnd);
  const std::uint64_t first_ns = s.used(1);
  const std::uint64_t second_ns = s.used(2);
  s.run(1'000 * kMs);
  check_equal(s.used(1) - first_ns, s.used(2) - second_ns, kMs);
}

TEST_CASE("a VM that makes a thread wait pays for it, also as a new VM of the same owner") {
  constexpr std::uint64_t kWaitNs = 4'900 * kMs;
  Simulation s;
  s.add(1, 1000, kWaitNs);
  s.add(2, 1001, kMs);
  while (s.used(1) == 0) REQUIRE(s.step());
  const std::uint64_t others_ns = s.used(2);
  s.remove(1);
  s.add(3, 1000, kWaitNs);
  while (s.used(3) == 0) REQUIRE(s.step());
  CHECK(s.used(2) - others_ns + 2 * static_cast<std::uint64_t>(kQuantumNs) >= kWaitNs);
}

TEST_CASE("nobody waits for others that have no work, and a debt alone keeps nobody waiting") {
  Simulation s;
  s.add(1, 1000, 3'600'000 * kMs);
  s.add(2, 1001, kMs, 0);
  const std::uint64_t before = s.asked();
  for (int i = 0; i < 100; ++i) REQUIRE(s.step());
  CHECK(s.asked() - before <= 100 * 4);  // an hour's debt is not paid round by round
  s.give(1, 0);
  CHECK_FALSE(s.step());
  s.remove(1);
  s.remove(2);
  CHECK_FALSE(s.step());
}

TEST_CASE("the one whose turn it was may go") {
  Simulation s;
  for (std::uint32_t vm = 1; vm <= 3; ++vm) s.add(vm, 1000 + vm, kMs);
  for (std::uint32_t vm = 3; vm >= 1; --vm) {
    REQUIRE(s.step());
    s.remove(vm);
  }
  CHECK_FALSE(s.step());
  s.add(7, 1000, kMs);
  CHECK(s.step());
}
