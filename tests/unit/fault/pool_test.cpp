// SPDX-License-Identifier: GPL-2.0-or-later
// The pool's rules with clients whose events come through eventfds: few threads for many clients,
// no event lost, nobody held up by who is held.
#include "fault/pool.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "patience.hpp"
#include "sys/thread.hpp"

using namespace ramfold;
using fault::Pool;
using test::soon;

namespace {

class Latch {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

class Fake final : public fault::Client {
 public:
  explicit Fake(std::shared_ptr<Pool> pool, unsigned places = 1, Latch* holds = nullptr)
      : pool_(std::move(pool)),
        events_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        holds_(holds) {
    REQUIRE(pool_->add(*this, events_.get(), wake_.get(), places).has_value());
  }
  ~Fake() override { (void)stop(UINT64_MAX); }
  bool stop(std::uint64_t patience_ns) { return pool_->remove(*this, patience_ns); }
  void raise() const {
    const std::uint64_t one = 1;
    REQUIRE(::write(events_.get(), &one, sizeof one) == sizeof one);
  }
  // Events come without end.
  void keep_busy() {
    is_busy = true;
    raise();
  }

  std::atomic<std::uint64_t> served{0};
  std::atomic<unsigned> here{0};
  std::atomic<bool> is_busy{false};

 private:
  void serve(unsigned place) noexcept override {
    here.fetch_add(1);
    bool invites = !is_single();
    do {
      pollfd p{events_.get(), POLLIN, 0};
      begin_wait(place);
      (void)::poll(&p, 1, -1);
      move_on(place);
      std::uint64_t count = 0;
      // The lock that Latch::wait() took is free again.
      // NOLINTNEXTLINE(clang-analyzer-unix.BlockInCriticalSection)
      if (::read(events_.get(), &count, sizeof count) != sizeof count) continue;
      note_served();
      if (std::exchange(invites, false)) invite();
      served.fetch_add(count);
      if (holds_ != nullptr) holds_->wait();
      if (is_busy) {
        sleep_ns(100'000);
        const std::uint64_t one = 1;
        (void)!::write(events_.get(), &one, sizeof one);
      }
    } while (stays());
    here.fetch_sub(1);
  }

  std::shared_ptr<Pool> pool_;
  sys::Fd events_, wake_;
  Latch* const holds_;
};

std::shared_ptr<Pool> make_pool() {
  auto pool = Pool::make();
  REQUIRE(pool.has_value());
  return *pool;
}

std::shared_ptr<Pool> begun_pool() {
  auto pool = make_pool();
  REQUIRE(pool->begin().has_value());
  return pool;
}

std::vector<std::unique_ptr<Fake>> fakes(const std::shared_ptr<Pool>& pool, unsigned count,
                                         unsigned places = 1, Latch* holds = nullptr) {
  std::vector<std::unique_ptr<Fake>> made;
  made.reserve(count);
  for (unsigned i = 0; i < count; ++i) made.push_back(std::make_unique<Fake>(pool, places, holds));
  return made;
}

bool all_served(const std::vector<std::unique_ptr<Fake>>& all, std::uint64_t least) {
  for (const auto& one : all) {
    if (one->served < least) return false;
  }
  return true;
}

// While there is one of these, counts the threads that the pool starts beyond its bound. The
// manager alone starts them, and finds which ones are held, so at a start the bound is exact.
class Starts {
 public:
  explicit Starts(const Pool& pool) {
    pool_ = &pool;
    beyond_ = 0;
    sys::set_thread_injector([](const char* name) noexcept {
      if (std::string_view(name) != "rf-fault") return 0;
      const Pool::Figures now = pool_.load()->figures();
      if (now.threads > Pool::kFewMax + now.held) ++beyond_;
      return 0;
    });
  }
  ~Starts() { sys::set_thread_injector(nullptr); }
  Starts(const Starts&) = delete;
  Starts& operator=(const Starts&) = delete;
  static unsigned beyond_bound() { return beyond_; }

 private:
  static inline std::atomic<const Pool*> pool_{nullptr};
  static inline std::atomic<unsigned> beyond_{0};
};

}  // namespace

TEST_CASE("a thousand clients that are quiet need a few threads, and each is served") {
  const auto pool = begun_pool();
  const Starts starts(*pool);
  const auto all = fakes(pool, 1024);
  CHECK(pool->figures().threads <= Pool::kSpareMax);
  for (std::uint64_t round = 1; round <= 3; ++round) {
    for (const auto& one : all) one->raise();
    REQUIRE(soon([&] { return all_served(all, round); }));
    // A thread that waits for a processor of a busy machine may look held, for a moment.
    CHECK(Starts::beyond_bound() == 0);
    CHECK(soon([&] { return pool->figures().held == 0; }));
    CHECK(soon([&] { return pool->figures().threads <= Pool::kFewMax; }));
  }
  CHECK(soon([&] { return pool->figures().threads <= Pool::kSpareMax; }));
  CHECK(soon([&] { return pool->figures().serving == 0; }));
}

TEST_CASE("a client that is served again and again keeps its thread, and loses it when quiet") {
  const auto pool = begun_pool();
  Fake busy(pool);
  busy.keep_busy();
  REQUIRE(soon([&] { return busy.served > 10; }));
  CHECK(soon([&] { return busy.here == 1; }));
  CHECK(soon([&] { return pool->figures().held == 0; }));
  const std::uint64_t then = pool->cpu_ns(busy);
  CHECK(then > 0);
  busy.is_busy = false;
  CHECK(soon([&] { return busy.here == 0; }));
  CHECK(pool->cpu_ns(busy) >= then);
  const std::uint64_t before = busy.served;
  busy.raise();
  CHECK(soon([&] { return busy.served > before; }));
}

TEST_CASE("clients that hold their threads hold up nobody else, and cost a thread each") {
  const auto pool = begun_pool();
  const Starts starts(*pool);
  Latch let_go;
  {
    const auto hostile = fakes(pool, 200, 1, &let_go);
    const auto honest = fakes(pool, 20);
    for (const auto& one : hostile) one->raise();
    REQUIRE(soon([&] { return all_served(hostile, 1); }));
    for (std::uint64_t round = 1; round <= 5; ++round) {
      for (const auto& one : honest) one->raise();
      REQUIRE(soon([&] { return all_served(honest, round); }));
    }
    CHECK(soon([&] { return pool->figures().held == 200; }));
    CHECK(Starts::beyond_bound() == 0);
    CHECK(soon([&] { return pool->figures().threads <= 200 + Pool::kFewMax; }));
    CHECK_FALSE(hostile.front()->stop(1'000'000));
    let_go.open();
    CHECK(hostile.front()->stop(UINT64_MAX));
  }
  CHECK(soon([&] { return pool->figures().threads <= Pool::kSpareMax; }));
}

TEST_CASE("more clients that are busy than there are threads are served in turn") {
  const auto pool = begun_pool();
  const auto all = fakes(pool, 3 * Pool::kFewMax);
  for (const auto& one : all) one->keep_busy();
  CHECK(soon([&] { return all_served(all, 20); }));
  // A thread that naps for long on a busy machine may look held for a moment.
  CHECK(soon([&] { return pool->figures().threads <= Pool::kFewMax + Pool::kSpareMin; }));
  for (const auto& one : all) one->is_busy = false;
}

TEST_CASE("a client with several places has another thread come where the first is held") {
  const auto pool = begun_pool();
  Latch let_go;
  Fake one(pool, 2, &let_go);
  one.raise();
  REQUIRE(soon([&] { return one.served == 1; }));
  one.raise();
  CHECK(soon([&] { return one.served == 2; }));
  CHECK(soon([&] { return one.here == 2; }));
  one.raise();  // no third one
  ::usleep(50'000);
  CHECK(one.here == 2);
  let_go.open();
  CHECK(soon([&] { return one.served == 3; }));
}

namespace {

std::atomic<unsigned> threads_left{0};

int deny(const char* /*name*/) noexcept {
  for (unsigned left = threads_left.load(); left != 0;) {
    if (threads_left.compare_exchange_weak(left, left - 1)) return 0;
  }
  return EAGAIN;
}

struct Denied {
  explicit Denied(unsigned left) {
    threads_left = left;
    sys::set_thread_injector(deny);
  }
  ~Denied() { sys::set_thread_injector(nullptr); }
};

}  // namespace

TEST_CASE("without any thread to be had events wait, and are served when there is one") {
  const auto pool = make_pool();
  const auto all = fakes(pool, 100);
  {
    const Denied denied(0);
    const Status begun = pool->begin();
    REQUIRE_FALSE(begun.has_value());
    CHECK(begun.error().code == EAGAIN);
    for (const auto& one : all) one->raise();
  }
  {
    const Denied denied(1);  // the manager's
    REQUIRE(pool->begin().has_value());
    CHECK(soon([&] { return pool->is_short(); }));
    CHECK_FALSE(all_served(all, 1));
  }
  CHECK(soon([&] { return all_served(all, 1); }));
  CHECK(soon([&] { return !pool->is_short(); }));
}

TEST_CASE("with a single thread to be had everybody is served in turn, busy ones too") {
  const Denied denied(2);
  const auto pool = begun_pool();
  const auto all = fakes(pool, 100);
  for (unsigned i = 0; i < 4; ++i) all[i]->keep_busy();
  for (std::uint64_t round = 1; round <= 3; ++round) {
    for (const auto& one : all) one->raise();
    REQUIRE(soon([&] { return all_served(all, round); }));
  }
  CHECK(pool->figures().threads == 1);
  for (unsigned i = 0; i < 4; ++i) all[i]->is_busy = false;
}
