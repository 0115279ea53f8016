// SPDX-License-Identifier: GPL-2.0-or-later
// A contradiction ends the process, so each case runs in a child. The orders that a child learns
// end with it.
#include "base/thread_annotations.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>
#include <csignal>
#include <string>

using namespace ramfold;

namespace {

struct Ended {
  bool aborted;
  std::string said;
};

// Runs `work` in a child.
template <typename Work>
Ended in_child(Work work) {
  std::array<int, 2> pipe{};
  REQUIRE(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    (void)std::signal(SIGABRT, SIG_DFL);  // not the test framework's
    ::dup2(pipe[1], STDERR_FILENO);
    work();
    ::_exit(0);
  }
  ::close(pipe[1]);
  Ended ended{};
  std::array<char, 512> text{};
  for (ssize_t n = 0; (n = ::read(pipe[0], text.data(), text.size())) > 0;)
    ended.said.append(text.data(), static_cast<std::size_t>(n));
  ::close(pipe[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  ended.aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  return ended;
}

// Locks all of them, from left to right.
template <typename... Others>
void lock_in_turn(Mutex& first, Others&... others) {
  const MutexLock lock(first);
  if constexpr (sizeof...(others) != 0) lock_in_turn(others...);
}

}  // namespace

TEST_CASE("mutexes that are always locked in one order are no contradiction") {
  CHECK_FALSE(in_child([] {
                Mutex a("a"), b("b"), c("c"), unnamed;
                for (int i = 0; i < 2; ++i) {
                  lock_in_turn(a, b, c);
                  lock_in_turn(a, c);
                  lock_in_turn(b, c, unnamed);
                  lock_in_turn(unnamed, a);
                }
              }).aborted);
}

TEST_CASE("two orders that contradict each other end the process, which names both mutexes") {
  const Ended ended = in_child([] {
    Mutex a("first"), b("second");
    lock_in_turn(a, b);
    lock_in_turn(b, a);
  });
  CHECK(ended.aborted);
  CHECK(ended.said.find("'first' is locked while 'second' is held") != std::string::npos);
}

TEST_CASE("an order that contradicts two others together is one too") {
  CHECK(in_child([] {
          Mutex a("a"), b("b"), c("c");
          lock_in_turn(a, b);
          lock_in_turn(b, c);
          lock_in_turn(c, a);
        }).aborted);
}

TEST_CASE("mutexes of one name are one, and a lock that was let go of is none") {
  CHECK(in_child([] {
          Mutex a("a"), b("b"), another_a("a");
          lock_in_turn(a, b);
          lock_in_turn(b, another_a);
        }).aborted);
  CHECK_FALSE(in_child([] {
                Mutex a("a"), b("b");
                lock_in_turn(a, b);
                MutexLock lock(b);
                lock.unlock();
                lock_in_turn(a);
              }).aborted);
}
