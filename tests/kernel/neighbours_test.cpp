// SPDX-License-Identifier: GPL-2.0-or-later
// Folded neighbours that come back with a page that is read, and all that can happen to such a run.
// The first walk makes the window wide: the reads of kWalk leave a run right before page 16, so a
// read of page 16 brings 16 pages.
#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>
#include <cerrno>

#include "kernel/at_point.hpp"
#include "kernel/fold_rig.hpp"
#include "patience.hpp"

using namespace ramfold;
using fault::Need;
using fault::Served;
using guest::Tag;
using test::AtPoint;
using test::GuestProcess;
using test::Rig;
using test::soon;

namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::array<std::uint64_t, 5> kWalk{0, 1, 2, 4, 8};
constexpr std::uint64_t kFirst = 16, kEnd = 32;  // the run that follows

std::uint64_t sum_of(std::uint64_t seed) { return GuestProcess::checksum(seed); }
std::uint64_t seed_of(std::uint64_t p) { return p % 5 == 0 ? 0 : p + 100; }

void fold_all(Rig& rig) {
  for (std::uint64_t p = 0; p < kPages; ++p) rig.process->store(PageIndex{p}, seed_of(p));
  rig.fold_until(kPages);
}
void wait_for_owners(Rig& rig) {
  for (std::uint64_t p = 0; p < kPages; ++p) {
    REQUIRE(soon([&] { return rig.vm->table().owner(PageIndex{p}) == guest::Owner::idle; }));
  }
}
void walk(Rig& rig) {
  for (const std::uint64_t p : kWalk)
    REQUIRE(rig.process->load(PageIndex{p}) == sum_of(seed_of(p)));
  for (std::uint64_t p = 0; p < kFirst; ++p)
    REQUIRE(soon([&] { return rig.tag(p) == Tag::clean; }));
  wait_for_owners(rig);
  REQUIRE(rig.tag(kFirst) == Tag::folded);
}
// A fault is counted after its waiter was woken.
bool has_events(Rig& rig, std::uint64_t from, std::uint64_t to) {
  return soon([&] {
    const std::uint64_t events =
        rig.vm->counters().faults_zero.get() + rig.vm->counters().faults_content.get();
    return events >= from && events <= to;
  });
}
void reads(Rig& rig, std::uint64_t p) {
  REQUIRE(rig.process->load(PageIndex{p}) == sum_of(seed_of(p)));
}
void reads_all(Rig& rig) {
  for (std::uint64_t p = 0; p < kPages; ++p) {
    INFO("page " << p);
    reads(rig, p);
  }
}
// As a fault thread would serve it, with the service of the rig stopped.
Served serve(Rig& rig, std::uint64_t p, Need need, std::size_t thread = 2) {
  fault::FillerThread me(rig.vm->fillings()[thread]);
  return rig.faults->filler().serve(PageIndex{p}, need, {}, me);
}
// A daemon died after the COPY: the page is there, guarded, and its word says `folded`.
void leave_resident(Rig& rig, std::uint64_t p) {
  PageCopy bytes;
  test::fill_page(seed_of(p), bytes.bytes.data());
  REQUIRE(rig.vm->uffd()
              .copy(rig.vm->address_of(PageIndex{p}), bytes.bytes.data(), ByteCount{kPageSize},
                    sys::Guard::yes, sys::Wake::no)
              .outcome == sys::Outcome::done);
}

}  // namespace

TEST_CASE("pages that are read in a row come back in runs, and go again unharmed") {
  constexpr std::uint64_t kMany = 1024;
  Rig rig(kMany);
  for (std::uint64_t p = 0; p < kMany; ++p) rig.process->store(PageIndex{p}, seed_of(p));
  rig.fold_until(kMany);
  const bool is_upward = GENERATE(true, false);
  for (std::uint64_t i = 0; i < kMany; ++i) {
    const std::uint64_t p = is_upward ? i : kMany - 1 - i;
    REQUIRE(rig.process->load(PageIndex{p}) == sum_of(seed_of(p)));
  }
  wait_for_owners(rig);
  const std::uint64_t brought = rig.vm->counters().neighbours_brought.get();
  CHECK(kMany - brought <= kMany / 12);
  CHECK(has_events(rig, kMany - brought, kMany - brought));
  CHECK(rig.vm->counters().neighbour_runs_cut.get() == 0);
  for (std::uint64_t p = 0; p < kMany; ++p) REQUIRE(rig.tag(p) == Tag::clean);
  const auto folded = rig.vm->counters().folds_again.get();
  const auto stored = rig.vm->counters().folds_stored.get() + rig.vm->counters().folds_shared.get();
  rig.fold_until(kMany);
  CHECK(rig.vm->counters().folds_again.get() == folded + kMany);
  CHECK(rig.vm->counters().folds_stored.get() + rig.vm->counters().folds_shared.get() == stored);
  for (std::uint64_t p = 0; p < kMany; ++p)
    REQUIRE(rig.process->load(PageIndex{p}) == sum_of(seed_of(p)));
}

TEST_CASE("clusters that are read begin with a wide window, and reads at random with none") {
  constexpr std::uint64_t kMany = 4096, kCluster = 16;
  Rig rig(kMany);
  for (std::uint64_t p = 0; p < kMany; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.fold_until(kMany);
  SECTION("clusters") {
    for (std::uint64_t i = 0; i < kMany / kCluster; ++i) {
      const std::uint64_t cluster = i * 37 % (kMany / kCluster);
      for (std::uint64_t p = cluster * kCluster; p < (cluster + 1) * kCluster; ++p)
        REQUIRE(rig.process->load(PageIndex{p}) == sum_of(p + 1));
    }
    CHECK(has_events(rig, kMany / 16, kMany / 8 + 32));
  }
  SECTION("at random") {
    for (std::uint64_t i = 0; i < 512; ++i) {
      const std::uint64_t p = i * 1031 % kMany;
      REQUIRE(rig.process->load(PageIndex{p}) == sum_of(p + 1));
    }
    CHECK(has_events(rig, 512, 512));
    CHECK(rig.vm->counters().neighbours_brought.get() == 0);
  }
}

TEST_CASE("a write brings no neighbours") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  const auto brought = rig.vm->counters().neighbours_brought.get();
  rig.process->store(PageIndex{kFirst}, 7);
  CHECK(rig.vm->counters().neighbours_brought.get() == brought);
  CHECK(rig.tag(kFirst + 1) == Tag::folded);
  CHECK(rig.process->load(PageIndex{kFirst}) == sum_of(7));
}

TEST_CASE("a neighbour is written while its run is under way") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  for (const char* point :
       {"fault.run", "fault.looked", "fault.filled", "fault.copied", "fault.run.word"}) {
    DYNAMIC_SECTION("at " << point) {
      const AtPoint at(point, [&] { rig.process->store_apart(PageIndex{kFirst + 3}, 7); });
      rig.faults->stop();
      CHECK(serve(rig, kFirst, Need::read) == Served::filled);
      CHECK(at.passed());
      rig.serve();
      REQUIRE(rig.process->collect(2000));
      CHECK(rig.process->load(PageIndex{kFirst + 3}) == sum_of(7));
      CHECK(soon([&] { return rig.tag(kFirst + 3) == Tag::none; }));
      for (std::uint64_t p = kFirst; p < kEnd; ++p) {
        if (p != kFirst + 3) reads(rig, p);
      }
      rig.fold_until(kPages);
      CHECK(rig.process->load(PageIndex{kFirst + 3}) == sum_of(7));
    }
  }
}

TEST_CASE("T5: a discard in a run leaves zeros") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  rig.faults->stop();
  const std::uint64_t gone = GENERATE(as<std::uint64_t>{}, 16, 19, 31);
  for (const char* point : {"fault.run", "fault.filled", "fault.copied", "fault.run.word"}) {
    DYNAMIC_SECTION("of page " << gone << " at " << point) {
      const AtPoint at(point, [&] {
        rig.set_discard_bit(gone);
        rig.process->discard(PageIndex{gone});
      });
      (void)serve(rig, kFirst, Need::read);
      CHECK(at.passed());
      rig.serve();
      CHECK(rig.process->load(PageIndex{gone}) == sum_of(0));
      for (std::uint64_t p = 0; p < kPages; ++p) {
        if (p != gone) reads(rig, p);
      }
      // A discard bit would keep the page from being folded again.
      rig.process->store(PageIndex{gone}, 9);
      rig.fold_until(kPages);
      CHECK(rig.process->load(PageIndex{gone}) == sum_of(9));
    }
  }
}

TEST_CASE("T1: a run that meets a resident page ends there, and the page that faults comes") {
  Rig rig(kPages);
  fold_all(rig);
  SECTION("the page that faults is before it") {
    walk(rig);
    leave_resident(rig, 20);
    reads(rig, kFirst);
    wait_for_owners(rig);
    CHECK(rig.tag(19) == Tag::clean);
    CHECK(rig.tag(20) == Tag::folded);
    CHECK(rig.tag(21) == Tag::folded);
  }
  SECTION("the page that faults is behind it") {
    for (const std::uint64_t p : {63, 62, 61, 59, 55}) reads(rig, p);
    REQUIRE(rig.tag(48) == Tag::clean);
    leave_resident(rig, 40);
    reads(rig, 47);
    wait_for_owners(rig);
    CHECK(rig.tag(39) == Tag::clean);
    CHECK(rig.tag(40) == Tag::folded);
    CHECK(rig.tag(46) == Tag::folded);
    CHECK(rig.tag(47) == Tag::clean);
  }
  CHECK(rig.vm->counters().neighbour_runs_cut.get() == 1);
  reads_all(rig);
}

namespace {

// A store that lost one content.
class LosingSource final : public store::ContentSource {
 public:
  explicit LosingSource(store::ContentSource& real) : real_(real) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    return id.value == bad ? store::Got::corrupt : real_.get(group, id, out, ticket);
  }
  bool is_quick(ContentId id) const noexcept override { return real_.is_quick(id); }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  std::atomic<std::uint32_t> bad{~0u};

 private:
  store::ContentSource& real_;
};

}  // namespace

TEST_CASE("a neighbour that cannot come stays folded, and decides nothing") {
  const auto store = Rig::make_store();
  LosingSource source(*store);
  Rig rig(kPages, store, &source);
  fold_all(rig);
  walk(rig);
  constexpr std::uint64_t kBad = 22;
  SECTION("its word is damaged") {
    const auto at = static_cast<off_t>(kBad * sizeof(std::uint64_t));
    std::uint64_t word = 0;
    REQUIRE(::pread(rig.vm->files().words.get(), &word, sizeof word, at) == sizeof word);
    word ^= std::uint64_t{1} << 40;
    REQUIRE(::pwrite(rig.vm->files().words.get(), &word, sizeof word, at) == sizeof word);
    reads(rig, kFirst);
    wait_for_owners(rig);
    CHECK_FALSE(rig.vm->table().load(PageIndex{kBad}).has_value());
    CHECK(rig.vm->counters().poisoned.get() == 0);
  }
  SECTION("its content does not decode") {
    source.bad = rig.vm->table().load(PageIndex{kBad})->content().value;
    reads(rig, kFirst);
    wait_for_owners(rig);
    CHECK(rig.tag(kBad) == Tag::folded);
    CHECK(rig.vm->counters().corrupt.get() == 0);
  }
  SECTION("it is lost") {
    source.bad = rig.vm->table().load(PageIndex{kBad})->content().value;
    CHECK(rig.process->load(PageIndex{kBad}) == GuestProcess::kBusError);
    REQUIRE(soon([&] { return rig.tag(kBad) == Tag::poisoned; }));
    reads(rig, kFirst);
    wait_for_owners(rig);
  }
  CHECK(rig.tag(kBad - 1) == Tag::clean);
  CHECK(rig.tag(kBad + 1) == Tag::folded);
  CHECK(rig.process->load(PageIndex{kBad}) == GuestProcess::kBusError);
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (p != kBad) reads(rig, p);
  }
}

TEST_CASE("two threads with runs that overlap share them out") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  rig.faults->stop();
  Served in_run{}, behind{};
  const AtPoint at("fault.run", [&] {
    in_run = serve(rig, kFirst + 5, Need::read, 3);
    behind = serve(rig, kEnd, Need::read, 3);
  });
  CHECK(serve(rig, kFirst, Need::read) == Served::filled);
  CHECK(at.passed());
  CHECK(in_run == Served::busy);
  CHECK(behind == Served::filled);
  rig.serve();
  wait_for_owners(rig);
  for (std::uint64_t p = 0; p <= kEnd; ++p) CHECK(rig.tag(p) == Tag::clean);
  reads_all(rig);
}

TEST_CASE("a page whose owner is another is no neighbour, and its run ends before it") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  REQUIRE(rig.vm->table().take_idle_for_fill(PageIndex{20}));
  reads(rig, kFirst);
  CHECK(soon([&] { return rig.vm->table().owner(PageIndex{19}) == guest::Owner::idle; }));
  CHECK(rig.tag(19) == Tag::clean);
  CHECK(rig.tag(21) == Tag::folded);
  // It is not marked as contended: nobody waits for it.
  CHECK(rig.vm->table().release(PageIndex{20}) == guest::Released::quiet);
  reads_all(rig);
}

TEST_CASE("readers that wait for pages of one run are all woken by it") {
  Rig rig(kPages);
  fold_all(rig);
  walk(rig);
  rig.faults->stop();
  rig.process->load_apart(PageIndex{kFirst}, kEnd - kFirst);
  ::usleep(50'000);  // they wait, and nobody has read their events
  rig.serve();
  std::uint64_t expected = 0;
  for (std::uint64_t p = kFirst; p < kEnd; ++p) expected += sum_of(seed_of(p));
  CHECK(rig.process->collect(2000) == expected);
}
