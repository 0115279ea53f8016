// SPDX-License-Identifier: GPL-2.0-or-later
// Discards: their bits, their order, and what they wait for.
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <string>

#include "attached.hpp"
#include "patience.hpp"

using namespace agent_test;

namespace {

bool resident(const Fd& ram, off_t page) {
  return ::lseek(ram.get(), page * 4096, SEEK_DATA) == page * 4096;
}

}  // namespace

TEST_CASE("a discard's bits are set before its punch and stay when it succeeds") {
  Probe probe;
  Attached a(8 * kMiB, with_probe(probe.ends[1]));
  for (const char* discard : {"allocate 0 3 12288 262144", "advise 0 9 12288 262144"}) {
    a.guest.good("poke 0 12288 1");
    a.guest.tell(discard);
    probe.reached();
    CHECK(a.shared->discards_active == 1);
    CHECK(a.shared.bits() == 64);
    CHECK_FALSE(a.shared.bit(2));
    CHECK(a.shared.bit(3));
    CHECK(a.shared.bit(66));
    CHECK_FALSE(a.shared.bit(67));
    CHECK(resident(a.daemon.ram[0], 3));
    probe.order('g');
    CHECK(a.next() == Answer{0, 0});
    CHECK(a.shared->discards_active == 0);
    CHECK(a.shared.bits() == 64);
    CHECK_FALSE(resident(a.daemon.ram[0], 3));
    a.shared.clear_bits();
  }
}

TEST_CASE("a discard that fails takes back its own bits only") {
  Probe probe;
  Attached a(8 * kMiB, with_probe(probe.ends[1]));
  a.guest.tell("allocate 0 3 40960 4096");
  probe.reached();
  probe.order('g');
  CHECK(a.next() == Answer{0, 0});
  for (const char* discard : {"allocate 0 3 0 1048576", "advise 0 9 0 1048576"}) {
    a.guest.tell(discard);
    probe.reached();
    CHECK(a.shared.bits() == 256);
    probe.order('f');
    CHECK(a.next() == Answer{-1, EIO});
    CHECK(a.shared->discards_active == 0);
    CHECK(a.shared.bits() == 1);
    CHECK(a.shared.bit(10));
  }
}

TEST_CASE("large discards go in steps, over blocks as they lie in the offer") {
  Daemon daemon(temporary_directory() + "/agent.sock");
  Guest guest(daemon.path(), {});
  guest.good("ram 0 1048576");
  guest.good("ram 1 20971520");
  Shared shared(256 + 5120, 1);
  daemon.attached_from_scratch(shared, 1);
  CHECK(guest.good("poke 1 20967424 9") == 9);
  CHECK(guest.good("allocate 1 3 4096 20967424") == 0);
  CHECK(shared.bits() == 5119);
  CHECK_FALSE(shared.bit(256));
  CHECK(shared.bit(257));
  CHECK(shared.bit(256 + 5119));
  CHECK(guest.good("peek 1 20967424") == 0);
  CHECK(guest.good("allocate 0 3 0 4096") == 0);
  CHECK(shared.bit(0));
  // DONTNEED on a shared mapping loses nothing: it is no discard.
  CHECK(guest.good("poke 0 8192 3") == 3);
  CHECK(guest.good("advise 0 4 0 1048576") == 0);
  CHECK(guest.good("peek 0 8192") == 3);
  CHECK(shared.bits() == 5120);
}

TEST_CASE("a discard does not wait for a dead daemon, and still leaves its bits") {
  Attached a;
  a.daemon.die();
  CHECK(a.guest.good("allocate 0 3 4096 4096") == 0);
  CHECK(a.shared.bit(1));
}

namespace {

// Both ways to discard page 1.
constexpr const char* kDiscards[] = {"allocate 0 3 4096 4096", "advise 0 9 4096 4096"};

long milliseconds(const std::function<void()>& action) {
  using std::chrono::steady_clock;
  const auto began = steady_clock::now();
  action();
  return static_cast<long>((steady_clock::now() - began) / std::chrono::milliseconds(1));
}

}  // namespace

TEST_CASE("a discard waits for a fill that may not have seen its bit") {
  Attached a;
  for (const char* discard : kDiscards) {
    for (const unsigned thread : {0u, RF_FILLINGS - 1}) {
      for (const uint32_t next :
           {2u, 3u}) {  // it has ended; another one, which sees the bit, has begun
        a.guest.good("poke 0 4096 1");
        a.shared->filling[thread].word = 1;
        a.guest.tell(discard);
        CHECK_FALSE(a.guest.answer_within(kSoonMs));
        CHECK(a.shared.bit(1));
        CHECK(a.shared->discards_active == 1);
        CHECK(resident(a.daemon.ram[0], 1));
        a.shared->filling[thread].word = next;
        CHECK(a.next() == Answer{0, 0});
        CHECK_FALSE(resident(a.daemon.ram[0], 1));
        a.shared->filling[thread].word = 4;
        a.shared.clear_bits();
      }
    }
  }
}

TEST_CASE("a discard's wait ends with the daemon's death, and no later one waits for the dead") {
  Attached a;
  a.shared->filling[3].word = 7;
  for (const char* discard : kDiscards) {
    a.guest.tell(discard);
    if (discard == kDiscards[0]) {
      CHECK_FALSE(a.guest.answer_within(kSoonMs));
      a.daemon.die();
    }
    CHECK(a.next() == Answer{0, 0});
  }
  CHECK(a.shared.bit(1));
  // The next daemon fills before the agent is connected to it, and may die before it ever is.
  a.shared->session = 0;
  a.shared->filling[3].word = 9;
  a.guest.tell(kDiscards[0]);
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.shared->filling[3].word = 10;
  CHECK(a.next() == Answer{0, 0});
  a.return_daemon(2);
  a.shared->filling[3].word = 11;
  a.guest.tell(kDiscards[0]);
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.daemon.die();
  CHECK(a.next() == Answer{0, 0});
}

TEST_CASE("a discard waits for the fills of a daemon that only closed the connection") {
  Attached a;
  a.shared->filling[1].word = 1;
  a.guest.tell(kDiscards[0]);
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.shared->session = 0;
  a.daemon.hang_up();
  CHECK_FALSE(a.guest.answer_within(2 * kSoonMs));
  a.shared->filling[1].word = 2;
  CHECK(a.next() == Answer{0, 0});
}

TEST_CASE("a discard fails when a fill never ends, and the next one at once") {
  // The longest that the agent takes is RF_HOLD_MS_MAX.
  const long hold_ms = std::min(ramfold::test::patient(2000), static_cast<int>(RF_HOLD_MS_MAX) - 1);
  Attached a(8 * kMiB, with_environment("RAMFOLD_HOLD_MS=" + std::to_string(hold_ms)));
  a.guest.good("poke 0 4096 7");
  a.shared->filling[16].word = 5;
  const Answer busy{-1, EBUSY};
  // The agent counts in steps of its clock, which is not this one.
  constexpr long kClockStepsMs = 100;
  const long took = milliseconds([&] { CHECK(a.guest.ask("allocate 0 3 0 8388608") == busy); });
  CHECK(took >= hold_ms - kClockStepsMs);
  // A discard that waited would take hold_ms; a refusal takes about a millisecond.
  const long refusals_took = milliseconds([&] {
    for (int i = 0; i < 5; ++i) CHECK(a.guest.ask(kDiscards[i % 2]) == busy);
  });
  CHECK(refusals_took < hold_ms);
  CHECK(a.shared->discards_active == 0);
  CHECK(a.shared.bits() == 0);
  CHECK(a.guest.good("peek 0 4096") == 7);
  // It went on after all.
  a.shared->filling[16].word = 6;
  CHECK(a.guest.ask(kDiscards[0]) == Answer{0, 0});
  a.shared->filling[16].word = 7;
  a.guest.tell(kDiscards[1]);
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.shared->filling[16].word = 8;
  CHECK(a.next() == Answer{0, 0});
}
