// SPDX-License-Identifier: GPL-2.0-or-later
// Forces orders of events that are rare in practice: late and duplicate events, discards and faults
// in the middle of a step, states that a dead daemon left. Uses test points, and takes ownership by
// hand. Row numbers: HAZARDS.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>
#include <functional>
#include <thread>

#include "base/clock.hpp"
#include "kernel/at_point.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/slow_source.hpp"
#include "patience.hpp"

using namespace ramfold;
using fault::Need;
using fault::Served;
using guest::Owner;
using guest::Tag;
using test::AtPoint;
using test::fold_nine;
using test::GuestProcess;
using test::kNine;
using test::Rig;
using test::SlowSource;
using test::soon;

namespace {

std::uint64_t sum_of(std::uint64_t seed) { return GuestProcess::checksum(seed); }

// As a fault thread would, once the one of the rig has let the page go.
Served serve(Rig& rig, Need need) {
  fault::FillerThread me(rig.vm->fillings()[2]);
  Served served{};
  do {
    served = rig.faults->filler().serve(kNine, need, {}, me);
  } while (served == Served::busy);
  return served;
}

}  // namespace

TEST_CASE("D3: a late missing event never brings old bytes back") {
  Rig rig(16);
  fold_nine(rig);
  SECTION("the guest has written since") {
    rig.process->store(kNine, 6);
    CHECK(serve(rig, Need::read) == Served::late);
    CHECK(serve(rig, Need::write) == Served::late);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
  SECTION("it was only read, and is clean: the late one is a write") {
    REQUIRE(rig.process->load(kNine) == sum_of(5));
    REQUIRE(soon([&] { return rig.tag(9) == Tag::clean; }));
    (void)serve(rig, Need::write);
    CHECK(rig.process->load(kNine) == sum_of(5));
    rig.process->store(kNine, 6);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
  SECTION("the guest has written and the page was folded anew") {
    rig.process->store(kNine, 6);
    rig.fold_until(16);
    CHECK(serve(rig, Need::read) == Served::filled);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
  SECTION("the second thread's event comes in the middle of the first one's answer") {
    std::atomic<Served> second{};
    const AtPoint at("fault.copied", [&] {
      fault::FillerThread other(rig.vm->fillings()[3]);
      second = rig.faults->filler().serve(kNine, Need::write, {}, other);
    });
    CHECK(rig.process->load(kNine) == sum_of(5));
    CHECK(at.passed());
    CHECK(second.load() == Served::busy);  // told to the owner, who wakes
    rig.process->store(kNine, 6);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
}

TEST_CASE("D3: a late write event never lifts the next fold's guard unseen") {
  Rig rig(16);
  fold_nine(rig);
  rig.process->store(kNine, 6);
  SECTION("the page is folded again") {
    rig.fold_until(16);
    (void)serve(rig, Need::lift);
    CHECK(rig.process->load(kNine) == sum_of(6));
    CHECK(
        soon([&] { return rig.tag(9) == Tag::none; }));  // unguarded: its word may say nothing (T4)
  }
  for (const char* point :
       {"fold.guard", "fold.pread", "fold.encode", "fold.commit", "fold.word"}) {
    DYNAMIC_SECTION("in the middle of a fold, at " << point) {
      rig.pass();
      const AtPoint at(point, [&] {
        fault::FillerThread other(rig.vm->fillings()[3]);
        (void)rig.faults->filler().serve(kNine, Need::lift, {}, other);
        // Not from here: the guest's own write would wait for the owner that stands in this hook.
        if (rig.vm->table().owner(kNine) == Owner::idle) rig.process->store(kNine, 7);
      });
      rig.pass_until([&] { return at.passed(); });
      CHECK(at.passed());
      const std::uint64_t now = rig.process->load(kNine);
      CHECK((now == sum_of(6) || now == sum_of(7)));
      rig.process->store(kNine, 8);
      CHECK(rig.process->load(kNine) == sum_of(8));
    }
  }
}

TEST_CASE("D3: a fault waits for the page's owner, and is woken by it") {
  Rig rig(16);
  fold_nine(rig);
  REQUIRE(rig.vm->table().take_idle_for_fill(kNine));
  rig.process->load_apart(kNine, 1);
  CHECK(soon([&] { return rig.vm->counters().faults_busy.get() > 0; }));
  CHECK_FALSE(rig.process->collect(100));
  REQUIRE(rig.vm->table().release(kNine) == guest::Released::contended);
  (void)rig.vm->uffd().wake(rig.vm->range_of({kNine, PageCount{1}}));
  CHECK(rig.process->collect(1000) == sum_of(5));
}

TEST_CASE("D4: a hole is not taken for a page of zeros") {
  Rig rig(16);
  // A page of zeros when it was observed, so that what pread gives for the hole looks unchanged.
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, p == 9 ? 0 : 5);
  rig.pass();
  rig.process->discard(kNine);  // unseen: no bit
  scan::Window stale{{PageIndex{0}, PageCount{16}}, 0, 1u << 9, 0, 0};
  rig.folder->leave(*rig.vm, rig.group, stale, {});
  CHECK(rig.tag(9) != Tag::folded);
  CHECK(rig.process->load(kNine) == sum_of(0));
  rig.process->store(kNine, 6);
  CHECK(rig.process->load(kNine) == sum_of(6));
}

TEST_CASE("D5: what a dead daemon left between two steps is read rightly after a discard") {
  Rig rig(16);
  fold_nine(rig);
  rig.faults->stop();
  // COPY was done, guarded, and the daemon died before the word: the guest cannot have changed the
  // page.
  PageCopy bytes;
  test::fill_page(5, bytes.bytes.data());
  REQUIRE(rig.vm->uffd()
              .copy(rig.vm->address_of(kNine), bytes.bytes.data(), ByteCount{kPageSize},
                    sys::Guard::yes, sys::Wake::no)
              .outcome == sys::Outcome::done);
  CHECK(rig.process->load(kNine) == sum_of(5));
  rig.process->store_apart(kNine, 0);
  CHECK_FALSE(rig.process->collect(100));
  rig.serve();
  rig.vm->wake_all();
  REQUIRE(rig.process->collect(1000));
  rig.process->discard(kNine);  // unseen
  CHECK(rig.process->load(kNine) == sum_of(0));
}

TEST_CASE("T5: a discard in the middle of a fault or a fold leaves zeros") {
  Rig rig(16);
  for (const char* point :
       {"fold.guard", "fold.pread", "fold.encode", "fold.commit", "fold.word", "fold.punch"}) {
    DYNAMIC_SECTION("fold, at " << point) {
      for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, p == 9 ? 5 : 0);
      rig.pass();
      const AtPoint at(point, [&] {
        rig.set_discard_bit(9);
        rig.process->discard(kNine);
      });
      rig.pass_until([&] { return at.passed(); });
      CHECK(at.passed());
      CHECK(rig.process->load(kNine) == sum_of(0));
      CHECK(rig.process->load(PageIndex{8}) == sum_of(0));
    }
  }
  SECTION("a read fault, after the copy") {
    fold_nine(rig);
    const AtPoint at("fault.copied", [&] {
      rig.set_discard_bit(9);
      rig.process->discard(kNine);
    });
    rig.faults->stop();
    fault::FillerThread me(rig.vm->fillings()[2]);
    (void)rig.faults->filler().serve(kNine, Need::read, {}, me);
    CHECK(at.passed());
    rig.serve();
    CHECK(rig.process->load(kNine) == sum_of(0));
  }
}

namespace {

// Calls `action` while a fault has its bytes fetched: after its first look at the page, before the
// copy's.
class ActingSource final : public store::ContentSource {
 public:
  explicit ActingSource(store::ContentSource& real) : real_(real) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    const store::Got got = real_.get(group, id, out, ticket);
    if (armed.exchange(false)) action();
    return got;
  }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  std::function<void()> action;
  std::atomic<bool> armed{false};

 private:
  store::ContentSource& real_;
};

}  // namespace

TEST_CASE("T5: a discard while the bytes are fetched leaves zeros, on every way back") {
  const auto store = Rig::make_store();
  ActingSource source(*store);
  Rig rig(16, store, &source);
  fold_nine(rig);
  // QEMU's call then finds a hole.
  source.action = [&] { rig.set_discard_bit(9); };
  source.armed = true;
  SECTION("a read") { CHECK(rig.process->load(kNine) == sum_of(0)); }
  SECTION("a write") {
    rig.process->store(kNine, 6);
    CHECK(rig.process->load(kNine) == sum_of(6));
  }
  SECTION("an unfolding") {
    fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
    CHECK(rig.faults->filler().unfold(kNine, {}, me) == Served::filled);
    CHECK(rig.process->load(kNine) == sum_of(0));
  }
  CHECK_FALSE(source.armed);
  CHECK(rig.vm->counters().discards_seen.get() > 0);
}

TEST_CASE("D8: who waits for a page that is mapped over is woken") {
  Rig rig(16);
  fold_nine(rig);
  rig.faults->stop();
  rig.process->load_apart(kNine, 1);
  ::usleep(50'000);  // it waits, and its event with it
  rig.process->map_over(kNine);
  rig.serve();
  // It finds what is mapped there now.
  CHECK(rig.process->collect(1000) == sum_of(0));
  CHECK(rig.process->load(PageIndex{8}) == sum_of(108));
}

TEST_CASE("D8: what was folded of a range that is mapped over comes back into the RAM file") {
  Rig rig(16);
  fold_nine(rig);
  rig.process->map_over(kNine);
  rig.vm->gate().close();
  rig.vm->gate().drain();
  fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
  CHECK(rig.faults->filler().unfold(kNine, {}, me) == fault::Served::filled);
  CHECK(rig.vm->table().load(kNine)->tag() == guest::Tag::none);
  PageCopy expected;
  test::fill_page(5, expected.bytes.data());
  PageCopy page;
  REQUIRE(rig.vm->read_pages({kNine, PageCount{1}}, page.bytes.data()));
  CHECK(page.bytes == expected.bytes);
  // A page that is there is the truth.
  constexpr PageCopy other{};
  REQUIRE(rig.vm->write_hole(kNine, other.bytes.data()));
  REQUIRE(rig.vm->read_pages({kNine, PageCount{1}}, page.bytes.data()));
  CHECK(page.bytes == expected.bytes);
}

TEST_CASE("L3: events that a dead daemon had read are raised again by waking") {
  Rig rig(16);
  fold_nine(rig);
  rig.faults->stop();
  rig.process->load_apart(kNine, 1);
  std::array<uffd_msg, 4> events;
  std::size_t read = 0;
  REQUIRE(soon([&] {
    read = rig.vm->uffd().read_events(events).value_or(0);
    return read != 0;
  }));
  rig.serve();
  CHECK_FALSE(rig.process->collect(200));  // nobody tells the new service
  rig.vm->wake_all();
  CHECK(rig.process->collect(1000) == sum_of(5));
}

TEST_CASE(
    "D14: a corrupt content is a memory error for its VM, never zeros, and touches nobody else") {
  const auto store = Rig::make_store();
  auto process = GuestProcess::start(PageCount{16});
  Rig healthy(16, store, nullptr, 2);
  fold_nine(healthy);
  const int arena = store->files().arena.get();
  const auto arena_size = static_cast<std::size_t>(::lseek(arena, 0, SEEK_END));
  const auto used = [&] {
    return static_cast<std::size_t>(std::min<off_t>(static_cast<off_t>(arena_size), 64 << 20));
  };
  std::vector<char> before(used());
  REQUIRE(::pread(arena, before.data(), before.size(), 0) == static_cast<ssize_t>(before.size()));
  Rig victim(16, store, nullptr, 3, std::move(process));
  fold_nine(victim);
  std::vector<char> after(used());
  REQUIRE(::pread(arena, after.data(), after.size(), 0) == static_cast<ssize_t>(after.size()));
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (before[i] == after[i]) continue;
    const char flipped = static_cast<char>(~after[i]);
    REQUIRE(::pwrite(arena, &flipped, 1, static_cast<off_t>(i)) == 1);
  }
  CHECK(victim.process->load(kNine) == GuestProcess::kBusError);
  CHECK(soon([&] { return victim.tag(9) == Tag::poisoned; }));
  CHECK(victim.process->load(kNine) == GuestProcess::kBusError);
  CHECK(healthy.process->load(kNine) == sum_of(5));
  SECTION("discarded, it is zeros or still an error: the kernel keeps the poison through a punch") {
    victim.set_discard_bit(9);
    victim.process->discard(kNine);
    const std::uint64_t now = victim.process->load(kNine);
    CHECK((now == GuestProcess::kBusError || now == sum_of(0)));
  }
  SECTION("two readers at once get the same") {
    victim.process->load_apart(kNine, 2);
    CHECK(victim.process->collect(1000) == 2 * GuestProcess::kBusError);
  }
}

TEST_CASE("D17: the mark of a lost page outlives the end of its registration") {
  Rig rig(16);
  fold_nine(rig);
  const auto at = static_cast<off_t>(kNine.value * sizeof(std::uint64_t));
  std::uint64_t word = 0;
  REQUIRE(::pread(rig.vm->files().words.get(), &word, sizeof word, at) == sizeof word);
  word ^= std::uint64_t{1} << 40;
  REQUIRE(::pwrite(rig.vm->files().words.get(), &word, sizeof word, at) == sizeof word);
  const bool is_touched_before = GENERATE(true, false);
  if (is_touched_before) CHECK(rig.process->load(kNine) == GuestProcess::kBusError);
  for (int times = 0; times < 2; ++times) {
    rig.vm->gate().close();
    fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
    unsigned lost = 0;
    CHECK(rig.vm->each_speaking([&](PageIndex p) {
      Served served = Served::busy;
      while (served == Served::busy) served = rig.faults->filler().unfold(p, {}, me);
      lost += served == Served::poisoned;
      return true;
    }));
    CHECK(lost == 1);
    REQUIRE(rig.vm->unregister_all().has_value());
    // Nobody serves, and nobody need: only the lost page is registered, and it has its mark.
    rig.faults->stop();
    for (std::uint64_t p = 0; p < 16; ++p) {
      const std::uint64_t sum = rig.process->load(PageIndex{p});
      CHECK(sum == (p == kNine.value ? GuestProcess::kBusError : sum_of(p + 100)));
    }
    // Attached again, with the page table that it has, it is folded around the page.
    rig.serve();
    (void)rig.vm->gate().open(0, rig.vm->gate().epoch());
    rig.pass_until([&] { return rig.tag(8) == Tag::folded && rig.tag(10) == Tag::folded; });
    CHECK(rig.process->load(kNine) == GuestProcess::kBusError);
    CHECK(rig.process->load(PageIndex{10}) == sum_of(110));
  }
  CHECK(rig.vm->counters().poisoned.get() == 1);
}

namespace {

// A memory cgroup of the test's own, of whichever version the host has. It gets no swap, whatever
// the host has of it: into that the kernel would make room, and the group would never be full.
class MemoryGroup {
 public:
  explicit MemoryGroup(std::uint64_t limit_bytes) {
    const std::string limit = std::to_string(limit_bytes);
    // Version 1 limits memory and swap together.
    if (make("/sys/fs/cgroup/memory") && write("memory.limit_in_bytes", limit) &&
        write("memory.memsw.limit_in_bytes", limit)) {
      return;
    }
    unmake();
    if (make("/sys/fs/cgroup") && write("memory.max", limit) && write("memory.swap.max", "0")) {
      return;
    }
    unmake();
  }
  ~MemoryGroup() {
    for (int i = 0; i < 1000 && !path_.empty() && ::rmdir(path_.c_str()) != 0; ++i) ::usleep(2000);
  }
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;
  bool usable() const { return !path_.empty(); }
  bool add(pid_t pid) { return write("cgroup.procs", std::to_string(pid)); }

 private:
  bool make(const char* base) {
    path_ = std::string(base) + "/ramfold-test-" + std::to_string(::getpid());
    if (::mkdir(path_.c_str(), 0755) != 0) path_.clear();
    return usable();
  }
  void unmake() {
    if (usable()) ::rmdir(path_.c_str());
    path_.clear();
  }
  bool write(const std::string& file, const std::string& text) {
    const sys::Fd fd(::open((path_ + "/" + file).c_str(), O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }
  std::string path_;
};

}  // namespace

TEST_CASE("L6: a VM whose memory cgroup is full holds up nobody else") {
  MemoryGroup group(4u << 20);
  if (!group.usable()) {
    WARN("no memory cgroup without swap can be made here");
    return;
  }
  constexpr std::uint64_t kPages = 4096;
  const auto store = Rig::make_store();
  auto process = GuestProcess::start(PageCount{kPages});
  Rig healthy(16, store, nullptr, 2);
  {
    Rig victim(kPages, store, nullptr, 3, std::move(process));
    for (std::uint64_t p = 0; p < kPages; ++p) victim.process->store(PageIndex{p}, p % 50 + 1);
    victim.fold_until(kPages);
    fold_nine(healthy);
    REQUIRE(group.add(victim.process->pid()));
    victim.process->load_apart(PageIndex{0}, 1);
    // 16 MiB come back into a group of 4: the kernel ends the VM, or the fault thread waits for
    // memory.
    bool ended = false;
    for (std::uint64_t p = 0; p < kPages && !ended; ++p) {
      victim.process->ask(GuestProcess::Op::load, PageIndex{p}, 0);
      std::uint64_t value = 0;
      ended = !victim.process->answer(value, 1000);
      if (!ended) REQUIRE(value == sum_of(p % 50 + 1));
      if (p % 64 == 0 || ended)
        REQUIRE(healthy.process->load(PageIndex{p % 16}) == sum_of(p % 16 == 9 ? 5 : p % 16 + 100));
    }
    CHECK(ended);
    // Though its threads wait for memory: with a stop that waits, the test would not end.
    victim.faults->stop();
  }
  CHECK(healthy.process->load(kNine) == sum_of(5));
}

TEST_CASE("pages whose contents are on their way wait without holding up others") {
  const auto store = Rig::make_store();
  SlowSource slow(*store);
  Rig rig(2048, store, &slow);
  SECTION("one waits, zeros and writes to resident pages go on") {
    for (std::uint64_t p = 0; p < 32; ++p) rig.process->store(PageIndex{p}, p < 16 ? p + 1 : 0);
    rig.fold_until(32);
    rig.process->load_apart(kNine, 1);
    REQUIRE(soon([&] { return slow.waiting() == 1; }));
    CHECK(rig.process->load(PageIndex{20}) == sum_of(0));
    rig.process->store(PageIndex{40}, 3);
    CHECK(rig.process->load(PageIndex{40}) == sum_of(3));
    CHECK(soon([&] { return rig.faults->parked() == 1; }));
    // A second reader of the same page, and a pass that would like to have it.
    rig.process->load_apart(kNine, 1);
    CHECK(soon([&] { return rig.vm->counters().faults_busy.get() > 0; }));
    rig.pass();
    slow.open();
    CHECK(rig.process->collect(1000) == 2 * sum_of(10));
    CHECK(soon([&] { return rig.faults->parked() == 0; }));
  }
  SECTION("more wait than there are places") {
    constexpr std::uint32_t kPages = fault::Server::kParkedMax + 100;
    std::uint64_t expected = 0;
    for (std::uint64_t p = 0; p < kPages; ++p) {
      rig.process->store(PageIndex{p}, p % 50 + 1);
      expected += sum_of(p % 50 + 1);
    }
    rig.fold_until(kPages);
    rig.process->load_apart(PageIndex{0}, kPages);
    CHECK(soon([&] { return slow.waiting() == fault::Server::kParkedMax; }));
    slow.open();
    CHECK(rig.process->collect(20'000) == expected);
    CHECK(soon([&] { return rig.faults->parked() == 0; }));
  }
}
