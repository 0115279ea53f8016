// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/thread.hpp"

#include <sys/eventfd.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>

#include "patience.hpp"
#include "sys/fd.hpp"

using namespace ramfold;

namespace {

// A thread that spins until `release` is set, then sleeps until `wake` is written to.
struct Spinner {
  std::atomic<pid_t> tid{0};
  std::atomic<bool> release{false};
  const sys::Fd wake{::eventfd(0, EFD_CLOEXEC)};

  void run() {
    tid = ::gettid();
    while (!release) {
    }
    std::uint64_t count = 0;
    (void)!::read(wake.get(), &count, sizeof count);
  }
};

}  // namespace

TEST_CASE("a thread that runs or waits for a processor is told from one that sleeps") {
  Spinner spinner;
  auto thread = sys::Thread::start("ramfold) S (x", [&] { spinner.run(); });
  REQUIRE(thread.has_value());
  REQUIRE(test::soon([&] { return spinner.tid != 0; }));
  CHECK(sys::is_runnable(spinner.tid));
  spinner.release = true;
  CHECK(test::soon([&] { return !sys::is_runnable(spinner.tid); }));
  const std::uint64_t one = 1;
  REQUIRE(::write(spinner.wake.get(), &one, sizeof one) == sizeof one);
  thread->join();
  CHECK_FALSE(sys::is_runnable(spinner.tid));
}
