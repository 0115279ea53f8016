// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/vm_controller.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

using namespace ramfold;
using namespace ramfold::policy;
using Because = VmActs::Because;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kFaultNs = 200'000;  // slow, so that few pages are enough
constexpr VmBudget kBudget{.stall = 0.01, .resident_floor = {}, .pass_seconds = 30};

// A guest and the fold workers. Every page is always cold. The guest touches its pages in order,
// again and again; a page that is folded comes back and costs a fault.
class Plant {
 public:
  Plant(std::size_t pages, std::size_t touches_a_second)
      : folded_(pages), touches_(touches_a_second) {
    now_.now_ns = 7 * kSecond;
    now_.resident = bytes(PageCount{pages});
    acts_ = controller_.decide(now_, kBudget);
  }
  // One second. Returns the stall share of it.
  double step() {
    left_ = std::min(left_ + acts_.pages_more, acts_.pages_max);
    for (std::size_t n = 0; n < kFoldsASecond && left_ > 0; ++n) {
      if (!folded_[scan_]) {
        folded_[scan_] = 1;
        ++folded_pages_;
        --left_;
      }
      scan_ = (scan_ + 1) % folded_.size();
    }
    for (std::size_t n = 0; n < touches_; ++n) {
      if (folded_[sweep_]) {
        folded_[sweep_] = 0;
        --folded_pages_;
        ++now_.returned;
        ++now_.faults;
        now_.stalled_ns += kFaultNs;
      }
      sweep_ = (sweep_ + 1) % folded_.size();
    }
    now_.now_ns += kSecond;
    const double stalled = static_cast<double>(now_.stalled_ns - stalled_ns_) / 1e9;
    stalled_ns_ = now_.stalled_ns;
    acts_ = controller_.decide(now_, kBudget);
    return stalled;
  }
  void touches(std::size_t a_second) { touches_ = a_second; }
  const VmActs& acts() const { return acts_; }
  std::size_t folded() const { return folded_pages_; }

 private:
  static constexpr std::size_t kFoldsASecond = 500;
  std::vector<char> folded_;
  std::size_t folded_pages_ = 0;
  std::size_t touches_;
  std::size_t scan_ = 0;
  std::size_t sweep_ = 0;
  std::uint64_t left_ = kPagesNoLimit;
  VmSense now_;
  std::uint64_t stalled_ns_ = 0;
  VmController controller_;
  VmActs acts_;
};

// As bench/controller.py --record writes it. Lines: milliseconds, stalled microseconds, faults,
// returned, vCPUs, resident pages.
std::vector<VmSense> read_trace(const std::string& name) {
  const char* root = std::getenv("RAMFOLD_SOURCE_ROOT");
  REQUIRE(root != nullptr);
  std::ifstream file(std::string(root) + "/tests/unit/policy/traces/" + name);
  REQUIRE(file);
  std::vector<VmSense> trace;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream fields(line);
    VmSense one;
    fields >> one.now_ns >> one.stalled_ns >> one.faults >> one.returned >> one.vcpus >>
        one.resident.value;
    REQUIRE(fields);
    one.now_ns *= 1'000'000;
    one.stalled_ns *= 1000;
    one.resident.value <<= kPageShift;
    trace.push_back(one);
  }
  REQUIRE(trace.size() > 20);
  return trace;
}

VmSense at_second(unsigned seconds, double stalled_seconds = 0) {
  return {.now_ns = seconds * kSecond,
          .stalled_ns = static_cast<std::uint64_t>(stalled_seconds * 1e9),
          .vcpus = 1};
}

}  // namespace

TEST_CASE("a VM that sweeps its memory stays within its stall budget, and keeps folded pages") {
  // If all pages were folded, each of these sweeps would cost 4 % of the VM's time.
  for (const unsigned period : {60u, 240u, 600u}) {
    constexpr std::size_t kTouches = 200;
    constexpr unsigned kSeconds = 4 * 3600;
    Plant plant(kTouches * period, kTouches);
    double total = 0;
    double worst = 0;
    double folded = 0;
    unsigned backed_off = 0;
    for (unsigned second = 1; second <= kSeconds; ++second) {
      total += plant.step();
      backed_off += plant.acts().backs_off;
      folded += static_cast<double>(plant.folded()) / (kTouches * period) / kSeconds;
      if (second % 3600 == 0 && second > 3600) worst = std::max(worst, total / second);
    }
    INFO("sweeps of " << period << " s: mean stall " << total / kSeconds << ", worst since start "
                      << worst << ", folded on average " << folded << ", backed off "
                      << backed_off);
    CHECK(total / kSeconds <= kBudget.stall);
    CHECK(worst <= kBudget.stall * 1.2);
    CHECK(folded > 0.02);
    CHECK(backed_off >= 1);
    CHECK(backed_off <= 4 * kSeconds / period);
  }
}

TEST_CASE("when the sweeps end, the VM is folded whole again, and without limit") {
  constexpr std::size_t kPages = 12'000;
  Plant plant(kPages, 200);
  for (unsigned s = 0; s < 600; ++s) plant.step();
  CHECK(plant.acts().because != Because::nothing);
  plant.touches(0);
  unsigned whole = 0;
  unsigned seconds = 0;
  const auto free = [&] { return plant.acts().because == Because::nothing; };
  while ((plant.folded() < kPages || !free()) && seconds < 14'400) {
    plant.step();
    ++seconds;
    if (plant.folded() < kPages) whole = seconds;
  }
  INFO("folded whole after " << whole << " s, free after " << seconds << " s");
  CHECK(whole < 900);
  CHECK(seconds < 14'400);
}

TEST_CASE("a VM within its budget is never limited") {
  VmController controller;
  for (unsigned s = 0; s < 600; ++s) {
    VmSense now = at_second(s, s * 0.009);
    now.returned = s * 400;
    now.faults = s * 450;
    CHECK(controller.decide(now, kBudget).because == Because::nothing);
    CHECK(controller.decide(now, kBudget).pages_max == kPagesNoLimit);
  }
}

TEST_CASE("the budget is exceeded in one epoch: in the next nothing is folded") {
  VmController controller;
  (void)controller.decide(at_second(1), kBudget);
  CHECK(controller.decide(at_second(2, 0.009), kBudget).pages_max == kPagesNoLimit);
  const VmActs acts = controller.decide(at_second(3, 0.020), kBudget);
  CHECK(acts.backs_off);
  CHECK(acts.because == Because::over_budget);
  CHECK(acts.pages_max == 0);
  CHECK_FALSE(controller.decide(at_second(4, 0.021), kBudget).backs_off);
}

TEST_CASE("a burst is forgiven in bounded time, however long it was") {
  for (const double burst : {0.011, 0.1, 1.0, 1000.0}) {
    VmController controller;
    (void)controller.decide(at_second(1), kBudget);
    CHECK(controller.decide(at_second(2, burst), kBudget).because == Because::over_budget);
    unsigned second = 2;
    while (controller.decide(at_second(++second, burst), kBudget).because != Because::nothing) {
      REQUIRE(second < 4000);
    }
    const double wanted = std::min((burst - 0.01) / 0.01, VmController::kForgivenSeconds);
    CHECK(second - 2 <= wanted + 1);
    CHECK(second - 2 >= wanted - 1);
  }
}

TEST_CASE("the budget counts for each vCPU; none known counts as one") {
  const auto limited = [](unsigned vcpus, double stalled) {
    VmController controller;
    VmSense now = at_second(1);
    now.vcpus = vcpus;
    (void)controller.decide(now, kBudget);
    now = at_second(2, stalled);
    now.vcpus = vcpus;
    return controller.decide(now, kBudget).because == Because::over_budget;
  };
  CHECK(limited(0, 0.011));
  CHECK_FALSE(limited(0, 0.009));
  CHECK_FALSE(limited(4, 0.039));
  CHECK(limited(4, 0.041));
}

TEST_CASE("counters that begin anew and a clock that jumps decide nothing") {
  VmController controller;
  (void)controller.decide(at_second(100, 5), kBudget);
  CHECK(controller.decide(at_second(101, 5), kBudget).because == Because::nothing);
  SECTION("counters begin at 0") {
    CHECK(controller.decide(at_second(102, 0), kBudget).because == Because::nothing);
    CHECK(controller.decide(at_second(103, 0.5), kBudget).because == Because::over_budget);
  }
  SECTION("the clock goes back") {
    CHECK(controller.decide(at_second(3, 5.5), kBudget).because == Because::nothing);
    CHECK(controller.decide(at_second(4, 5.5), kBudget).because == Because::nothing);
  }
  SECTION("the daemon was not run for an hour: the budget of that hour counts") {
    CHECK(controller.decide(at_second(3701, 40), kBudget).because == Because::nothing);
    CHECK(controller.decide(at_second(7301, 77), kBudget).because == Because::over_budget);
  }
  SECTION("two decisions at once are one, and give no page twice") {
    (void)controller.decide(at_second(102, 6), kBudget);
    const VmActs again = controller.decide(at_second(102, 9), kBudget);
    CHECK(again.because == Because::over_budget);
    CHECK(again.pages_more == 0);
    CHECK_FALSE(again.backs_off);
  }
}

TEST_CASE("folding stops at the resident floor, from the first decision on") {
  VmController controller;
  VmBudget budget = kBudget;
  budget.resident_floor = bytes(PageCount{1000});
  VmSense now = at_second(1);
  now.resident = bytes(PageCount{1200});
  CHECK(controller.decide(now, budget).pages_max == 200);
  now = at_second(2);
  now.resident = bytes(PageCount{1000});
  CHECK(controller.decide(now, budget).pages_max == 0);
  CHECK(controller.decide(now, budget).because == Because::at_floor);
  now = at_second(3);
  now.resident = bytes(PageCount{400});
  CHECK(controller.decide(now, budget).pages_max == 0);
  now = at_second(4);
  now.resident = bytes(PageCount{5000});
  CHECK(controller.decide(now, budget).pages_max == 4000);
  CHECK(controller.decide(now, budget).because == Because::nothing);
}

TEST_CASE("recorded: folding stops in the very epoch in which a guest exceeds its budget") {
  for (const char* name : {"sweep.txt"}) {
    VmController controller;
    std::optional<VmSense> before;
    unsigned over = 0;
    unsigned backed_off = 0;
    for (const VmSense& now : read_trace(name)) {
      const VmActs acts = controller.decide(now, kBudget);
      backed_off += acts.backs_off;
      if (before) {
        const double stall = static_cast<double>(now.stalled_ns - before->stalled_ns) /
                             static_cast<double>(now.now_ns - before->now_ns);
        INFO(name << " at " << now.now_ns / kSecond << " s: " << stall);
        if (stall > kBudget.stall) {
          ++over;
          CHECK(acts.because == Because::over_budget);
          CHECK(acts.pages_max == 0);
        } else if (over == 0) {
          CHECK(acts.because == Because::nothing);
        }
      }
      before = now;
    }
    CHECK(over > 10);
    CHECK(backed_off >= 1);
    CHECK(backed_off <= over);
  }
}

TEST_CASE("the pace follows what a fault takes, and touches of forgotten pages are none") {
  const auto pages_more = [](std::uint64_t touched_ns) {
    VmController controller;
    VmSense now{.now_ns = kSecond, .vcpus = 1};
    (void)controller.decide(now, kBudget);
    now.faults = now.returned = 100;
    now.stalled_ns = 100 * kFaultNs + touched_ns;  // 20 ms, and the touches
    now.touched_ns = touched_ns;
    VmActs acts;
    do {
      now.now_ns += kSecond;
      acts = controller.decide(now, kBudget);
    } while (acts.because == Because::over_budget);
    CHECK(acts.because == Because::pages_come_back);
    return acts.pages_more;
  };
  CHECK(pages_more(0) == 25);  // half of 10 ms, at 200 us a fault
  CHECK(pages_more(30'000'000) == 25);
}
