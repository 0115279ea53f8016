// SPDX-License-Identifier: GPL-2.0-or-later
// Everything that a fault thread waits for wakes it at once: a stop, or a content that has arrived.
// A test point forces the case that this happens between the thread's last look and its sleep.
#include <fcntl.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <condition_variable>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>

#include "base/clock.hpp"
#include "kernel/at_point.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/slow_source.hpp"
#include "patience.hpp"
#include "sys/uffd.hpp"

using namespace ramfold;
using test::AtPoint;
using test::GuestProcess;
using test::Rig;
using test::SlowSource;

namespace {

constexpr std::uint64_t kPages = 32;
// With test points a thread that has missed what it waits for does not look again by itself
// (Server's kPollMs): what is not woken does not come within this either.
constexpr int kWokenMs = 10'000;

class Flag {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    is_set_ = true;
    changed_.notify_all();
  }
  bool wait(int ms) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(test::patient(ms)),
                             [&] { return is_set_; });
  }
  void wait() { (void)wait(60'000); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_set_ = false;
};

// Threads that do not end are woken by a fault, so that the test fails and goes on. REQUIRES: page
// 7 is folded.
bool stops_at_once(Rig& rig, const std::function<void()>& meanwhile = [] {}) {
  Flag stopped;
  std::thread stopper([&] {
    rig.faults->stop();
    stopped.set();
  });
  meanwhile();
  const bool at_once = stopped.wait(kWokenMs);
  if (!at_once) rig.process->load_apart(PageIndex{7}, 1);
  stopper.join();
  return at_once;
}

void serve_with(Rig& rig, store::ContentSource& source, unsigned threads) {
  REQUIRE(stops_at_once(rig));
  auto started = fault::Server::start(rig.pool, *rig.vm, source, rig.group, threads);
  REQUIRE(started.has_value());
  rig.faults = std::move(*started);
}

std::uint64_t sum_of(std::uint64_t seed) { return GuestProcess::checksum(seed); }

// Pages 0 to 7 hold something and are folded.
void fold_eight(Rig& rig) {
  for (std::uint64_t p = 0; p < 8; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.fold_until(8);
}

}  // namespace

TEST_CASE("threads that wait for events end at once") {
  Rig rig(kPages);
  for (const unsigned threads : {1u, 2u, 16u}) {
    for (unsigned round = 0; round < 20; ++round) {
      serve_with(rig, *rig.contents, threads);
      fold_eight(rig);
      for (std::uint64_t p = 0; p < 8; ++p)
        REQUIRE(rig.process->load(PageIndex{p}) == sum_of(p + 1));
      ::usleep(round % 10 * 200);  // some sleep already, others have only just come
      REQUIRE(stops_at_once(rig));
    }
  }
}

TEST_CASE("a thread that has looked and does not sleep yet ends at once") {
  Rig rig(kPages);
  fold_eight(rig);
  REQUIRE(stops_at_once(rig));
  Flag looked, goes_on;
  const AtPoint at("fault.wait", [&] {
    looked.set();
    goes_on.wait();
  });
  rig.serve();
  rig.process->load_apart(PageIndex{0}, 1);  // brings a thread, which then waits for the next
  REQUIRE(looked.wait(kWokenMs));
  REQUIRE(rig.process->collect(kWokenMs) == sum_of(1));
  CHECK(stops_at_once(rig, [&] {
    ::usleep(20'000);  // the stop has told it by now
    goes_on.set();
  }));
}

TEST_CASE("a content that has come is given out at once") {
  const auto store = Rig::make_store();
  SlowSource slow(*store);
  Rig rig(kPages, store, &slow);
  fold_eight(rig);
  for (std::uint64_t p = 0; p < 8; ++p) {
    slow.close();
    rig.process->load_apart(PageIndex{p}, 1);
    while (slow.waiting() == 0) ::usleep(500);
    ::usleep(static_cast<useconds_t>(p) * 500);  // on its way to sleep, and asleep
    slow.open();
    REQUIRE(rig.process->collect(kWokenMs) == sum_of(p + 1));
  }
}

namespace {

// One content is on its way, all others hold up who asks for them.
class TwoContents final : public store::ContentSource {
 public:
  TwoContents(store::ContentSource& real, ContentId late) : real_(real), late_(late) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    if (id == late_ && !asked_.exchange(true)) {
      ticket_ = ticket;
      asked.set();
      return store::Got::pending;
    }
    if (id != late_) {
      held.set();
      let_go.wait();
    }
    return real_.get(group, id, out, ticket);
  }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  void has_come() { ticket_.listener->ready(ticket_); }

  Flag asked, held, let_go;

 private:
  store::ContentSource& real_;
  ContentId late_;
  std::atomic<bool> asked_{false};
  store::FetchTicket ticket_;
};

}  // namespace

TEST_CASE("a content that has come is given out by another thread where the first is busy") {
  std::optional<TwoContents> source_of_two;  // outlives who reads from it
  Rig rig(kPages);
  fold_eight(rig);
  TwoContents& source =
      source_of_two.emplace(*rig.contents, rig.vm->table().load(PageIndex{0})->content());
  REQUIRE(stops_at_once(rig));  // none of the threads so far may be the one that is held
  Flag looked, goes_on;
  // One thread decides what it waits for before there is any content to wait for.
  const AtPoint at("fault.wait", [&] {
    looked.set();
    goes_on.wait();
  });
  serve_with(rig, source, 2);
  rig.process->load_apart(PageIndex{kPages - 1}, 1);  // a page of zeros brings it
  REQUIRE(looked.wait(kWokenMs));
  (void)rig.process->collect(kWokenMs);
  rig.process->load_apart(PageIndex{0}, 1);
  REQUIRE(source.asked.wait(kWokenMs));
  rig.process->load_apart(PageIndex{1}, 1);
  REQUIRE(source.held.wait(kWokenMs));
  goes_on.set();
  ::usleep(20'000);  // asleep
  source.has_come();
  (void)test::soon([&] { return rig.faults->parked() != 2; }, kWokenMs);
  CHECK(rig.faults->parked() == 1);
  source.let_go.set();
  CHECK(rig.process->collect(20'000) == sum_of(1) + sum_of(2));
}

namespace {

// One content cannot be read, until it is told otherwise.
class FailingSource final : public store::ContentSource {
 public:
  FailingSource(store::ContentSource& real, ContentId broken) : real_(real), broken_(broken) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    if (id != broken_ || mended_) return real_.get(group, id, out, ticket);
    std::memset(out, 0xee, kPageSize);
    ++failed_;
    return store::Got::failed;
  }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  bool wait_for_failures(unsigned n) const {
    return test::soon([&] { return failed_ >= n; });
  }
  void mend() { mended_ = true; }

 private:
  store::ContentSource& real_;
  const ContentId broken_;
  std::atomic<bool> mended_{false};
  std::atomic<unsigned> failed_{0};
};

}  // namespace

TEST_CASE("a content that cannot be read now is waited for, and is not lost") {
  const unsigned threads = GENERATE(1u, 2u);
  CAPTURE(threads);
  std::optional<FailingSource> failing;
  Rig rig(kPages);
  fold_eight(rig);
  const PageIndex page{3};
  FailingSource& source = failing.emplace(*rig.contents, rig.vm->table().load(page)->content());
  serve_with(rig, source, threads);
  guest::VmCounters& counters = rig.vm->counters();
  SECTION("by a read") {
    rig.process->load_apart(page, 1);
    REQUIRE(source.wait_for_failures(5));
    CHECK(rig.tag(page.value) == guest::Tag::folded);
    CHECK(test::soon([&] { return rig.faults->parked() == 1; }));
    CHECK(rig.process->load(PageIndex{4}) == sum_of(5));  // nobody else waits for it
    source.mend();
    CHECK(rig.process->collect(20'000) == sum_of(4));
    CHECK(rig.tag(page.value) == guest::Tag::clean);
    CHECK(counters.errors.get() == 1);
  }
  SECTION("by a read, while the service is replaced") {
    rig.process->load_apart(page, 1);
    REQUIRE(source.wait_for_failures(2));
    REQUIRE(stops_at_once(rig));
    CHECK(rig.faults->parked() == 0);
    source.mend();
    rig.serve();
    rig.vm->wake_all();
    CHECK(rig.process->collect(20'000) == sum_of(4));
  }
  SECTION("by an unfold, which goes on with the others") {
    rig.vm->gate().close();
    fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
    fault::Filler& filler = rig.faults->filler();
    CHECK(filler.unfold(page, {}, me) == fault::Served::again);
    CHECK(filler.unfold(PageIndex{4}, {}, me) == fault::Served::filled);
    CHECK(rig.tag(page.value) == guest::Tag::folded);
    source.mend();
    CHECK(filler.unfold(page, {}, me) == fault::Served::filled);
    CHECK(rig.process->load(page) == sum_of(4));
  }
  CHECK(counters.corrupt.get() == 0);
}

TEST_CASE("who waits for a content is withdrawn when the service ends") {
  const auto store = Rig::make_store();
  SlowSource slow(*store);
  Rig rig(kPages, store, &slow);
  fold_eight(rig);
  rig.process->load_apart(PageIndex{2}, 1);
  while (slow.waiting() == 0) ::usleep(500);
  REQUIRE(stops_at_once(rig));
  CHECK(slow.waiting() == 0);
  rig.faults.reset();
  slow.open();  // calls nobody
  rig.serve();
  rig.vm->wake_all();
  CHECK(rig.process->collect(20'000) == sum_of(3));
}

// The last one: afterwards this process takes its kernel for an old one.
TEST_CASE("a thread that the agent has sleep in read(2) ends at once") {
  Rig rig(kPages);
  fold_eight(rig);
  const int fd = rig.vm->uffd().fd();
  REQUIRE(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0);
  sys::set_injector(
      [](sys::Call call) noexcept { return call == sys::Call::read ? EOPNOTSUPP : 0; });
  CHECK(rig.process->load(PageIndex{0}) == sum_of(1));
  ::usleep(50'000);
  CHECK(stops_at_once(rig));
  sys::set_injector(nullptr);
}
