// SPDX-License-Identifier: GPL-2.0-or-later
// What happens when the kernel gives no thread: what a VM may hold up is destroyed later, never on
// the thread that lets go of it, and what waits for a thread is done when there is one. How many
// threads the objects of a sender take.
#include "daemon/threads/apart.hpp"

#include <pthread.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <utility>

#include "daemon/bring_back/retries.hpp"
#include "patience.hpp"
#include "sys/thread.hpp"

using namespace ramfold;
using test::soon;

namespace {

// No thread is to be had while there is one of these.
struct NoThreads {
  NoThreads() {
    sys::set_thread_injector([](const char*) noexcept { return EAGAIN; });
  }
  ~NoThreads() { sys::set_thread_injector(nullptr); }
};

std::atomic<int> destroyed{0};
std::atomic<int> destroyed_here{0};  // on a thread that lets go
thread_local bool lets_go = false;

struct Probe {
  Probe() = default;
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  ~Probe() {
    ++destroyed;
    if (lets_go) ++destroyed_here;
  }
};

// Its destruction is held up, as that of a descriptor whose close waits for a process.
struct Held {
  static inline std::atomic<bool> hold{false};
  static inline std::atomic<std::size_t> inside{0};
  static inline std::atomic<std::size_t> most{0};
  static inline std::atomic<std::size_t> ended{0};

  static void begin() {
    hold = true;
    inside = most = ended = 0;
  }
  Held() = default;
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    const std::size_t now = ++inside;
    std::size_t seen = most;
    while (seen < now && !most.compare_exchange_weak(seen, now)) {
    }
    while (hold) ::usleep(1000);
    --inside;
    ++ended;
  }
};

}  // namespace

TEST_CASE("a sender's objects take few threads, and others' are destroyed meanwhile") {
  constexpr uid_t kFirst = 1000, kSecond = 1001;
  constexpr std::size_t kMany = 3 * daemon::kClosingOfSenderMax;
  Held::begin();
  for (std::size_t i = 0; i < kMany; ++i) {
    CHECK(daemon::is_closing_much(kFirst) == (i >= daemon::kClosingOfSenderMax));
    daemon::share_apart(std::make_unique<Held>(), kFirst).reset();
  }
  CHECK(soon([] { return Held::inside == daemon::kClosingOfSenderMax; }));
  CHECK(daemon::count_apart() == kMany);
  CHECK(daemon::tend_apart());  // the kernel gives threads
  // Another sender, and a VM, which no sender's bound concerns.
  CHECK_FALSE(daemon::is_closing_much(kSecond));
  daemon::let_go_apart(std::make_unique<Held>(), kSecond);
  daemon::let_go_apart(std::make_unique<Held>());
  CHECK(soon([] { return Held::inside == daemon::kClosingOfSenderMax + 2; }));
  CHECK(daemon::is_closing_much(kFirst));
  Held::hold = false;
  CHECK(soon([] { return Held::ended == kMany + 2; }));
  CHECK(soon([] { return daemon::count_apart() == 0; }));
  CHECK(Held::most == daemon::kClosingOfSenderMax + 2);
  CHECK_FALSE(daemon::is_closing_much(kFirst));
}

TEST_CASE("the objects of all senders together take a bounded number of threads") {
  constexpr std::size_t kSenders = daemon::kClosingMax / daemon::kClosingOfSenderMax + 1;
  constexpr std::size_t kAll = kSenders * daemon::kClosingOfSenderMax;
  Held::begin();
  for (std::size_t i = 0; i < kAll; ++i)
    daemon::let_go_apart(std::make_unique<Held>(), static_cast<uid_t>(i % kSenders));
  CHECK(soon([] { return Held::inside == daemon::kClosingMax; }));
  CHECK(daemon::count_apart() == kAll);
  Held::hold = false;
  CHECK(soon([] { return Held::ended == kAll; }));
  CHECK(soon([] { return daemon::count_apart() == 0; }));
  CHECK(Held::most == daemon::kClosingMax);
}

TEST_CASE("a sender's objects that find no thread count as not destroyed") {
  constexpr uid_t kSender = 1000;
  destroyed = 0;
  {
    const NoThreads none;
    for (std::size_t i = 0; i < daemon::kClosingOfSenderMax; ++i)
      daemon::let_go_apart(std::make_unique<Probe>(), kSender);
    CHECK(daemon::is_closing_much(kSender));
    CHECK_FALSE(daemon::tend_apart());
    CHECK(destroyed == 0);
  }
  CHECK(daemon::tend_apart());
  CHECK(soon([] { return destroyed == static_cast<int>(daemon::kClosingOfSenderMax); }));
  CHECK(soon([] { return daemon::count_apart() == 0; }));
  CHECK_FALSE(daemon::is_closing_much(kSender));
}

TEST_CASE("what finds no thread is destroyed when there is one, and not here") {
  destroyed = destroyed_here = 0;
  lets_go = true;
  {
    const NoThreads none;
    daemon::let_go_apart(std::make_unique<Probe>());
    daemon::share_apart(std::make_unique<Probe>()).reset();
    CHECK_FALSE(daemon::run_apart([] {}));
    CHECK(daemon::run_apart_for(1, [] {}) == daemon::Ended::never_ran);
    CHECK_FALSE(daemon::tend_apart());
    CHECK(destroyed == 0);
    CHECK(daemon::count_apart() == 2);
  }
  CHECK(daemon::tend_apart());
  CHECK(soon([] { return destroyed == 2; }));
  CHECK(soon([] { return daemon::count_apart() == 0; }));
  CHECK(destroyed_here == 0);
  lets_go = false;
}

TEST_CASE("an errand that finds no thread does not destroy here what it shares") {
  destroyed = destroyed_here = 0;
  lets_go = true;
  {
    const NoThreads none;
    auto probe = daemon::share_apart(std::make_unique<Probe>());
    const bool runs = daemon::run_apart([probe = std::move(probe)] {});
    CHECK_FALSE(runs);
    CHECK(destroyed == 0);
  }
  CHECK(daemon::tend_apart());
  CHECK(soon([] { return destroyed == 1; }));
  CHECK(destroyed_here == 0);
  lets_go = false;
}

TEST_CASE("of two that let go at the same time neither destroys") {
  constexpr int kRounds = 200;
  destroyed = destroyed_here = 0;
  for (int i = 0; i < kRounds; ++i) {
    auto mine = daemon::share_apart(std::make_unique<Probe>());
    std::atomic<bool> go{false};
    std::thread other([theirs = mine, &go]() mutable {
      lets_go = true;
      while (!go) {
      }
      theirs.reset();
    });
    lets_go = true;
    go = true;
    mine.reset();
    other.join();
  }
  lets_go = false;
  CHECK(soon([] { return destroyed == kRounds; }));
  CHECK(destroyed_here == 0);
}

TEST_CASE("what is kept without a thread has a bound") {
  destroyed = 0;
  {
    const NoThreads none;
    for (std::size_t i = 0; i < daemon::kKeptMax + 10; ++i)
      daemon::let_go_apart(std::make_unique<Probe>());
    CHECK(daemon::count_apart() == daemon::kKeptMax);
  }
  CHECK(daemon::tend_apart());
  CHECK(soon([] { return destroyed == static_cast<int>(daemon::kKeptMax); }));
  CHECK(soon([] { return daemon::count_apart() == 0; }));
}

TEST_CASE("retries wait for their thread") {
  daemon::Retries retries;
  std::atomic<int> done{0};
  retries.add({"a", daemon::Retries::kHost,
               [&]() -> Status {
                 ++done;
                 return {};
               },
               nullptr, nullptr, 0});
  {
    const NoThreads none;
    const Status begun = retries.begin();
    REQUIRE_FALSE(begun.has_value());
    CHECK(begun.error().code == EAGAIN);
    CHECK(done == 0);
  }
  CHECK(retries.begin().has_value());
  CHECK(retries.begin().has_value());  // it runs already
  CHECK(soon([&] { return done == 1; }));
}

TEST_CASE("a thread has its name, and is joined by its owner's end") {
  std::atomic<bool> ended{false};
  std::array<char, 16> name{};
  {
    auto thread = sys::Thread::start("rf-a-name-that-is-long", [&] {
      ::pthread_getname_np(::pthread_self(), name.data(), name.size());
      ::usleep(20'000);
      ended = true;
    });
    REQUIRE(thread.has_value());
    sys::Thread moved = std::move(*thread);
    CHECK_FALSE(static_cast<bool>(*thread));
    CHECK(static_cast<bool>(moved));
  }
  CHECK(ended);
  CHECK(std::string(name.data()) == "rf-a-name-that-");
}
