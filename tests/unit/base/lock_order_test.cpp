// SPDX-License-Identifier: GPL-2.0-or-later
// A wrong order ends the process, so each case runs in a child. The names are of the table in
// base/lock_order.cpp, but for "leaf" and "leaf, too", which no row has.
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

TEST_CASE("mutexes that are locked as the table allows are no error") {
  CHECK_FALSE(in_child([] {
                Mutex offers("Agents::offers"), agents("Agents"), channel("CommandChannel");
                Mutex leaf("leaf"), unnamed;
                for (int i = 0; i < 2; ++i) {
                  lock_in_turn(offers, agents, channel);
                  lock_in_turn(offers, leaf);
                  lock_in_turn(agents, leaf, unnamed);
                  lock_in_turn(unnamed, offers);
                }
              }).aborted);
}

TEST_CASE("an order that follows from two rows together is allowed") {
  CHECK_FALSE(in_child([] {
                Mutex deciding("HostService::deciding"), judging("Loop::judging");
                lock_in_turn(deciding, judging);
              }).aborted);
}

TEST_CASE("the reverse of a row ends the process, also if nobody took the row's way") {
  const Ended ended = in_child([] {
    Mutex offers("Agents::offers"), agents("Agents");
    lock_in_turn(agents, offers);
  });
  CHECK(ended.aborted);
  CHECK(ended.said.find("'Agents::offers' is locked while 'Agents' is held") != std::string::npos);
}

TEST_CASE("two mutexes that no row puts into an order are not locked together") {
  CHECK(in_child([] {
          Mutex agents("Agents"), keeping("Keeping");
          lock_in_turn(agents, keeping);
        }).aborted);
}

TEST_CASE("no lock is taken under a leaf, and a name without a row is a leaf") {
  CHECK(in_child([] {
          Mutex set("VmSet"), current("policy::Current");
          lock_in_turn(set, current);
        }).aborted);
  const Ended ended = in_child([] {
    Mutex leaf("leaf"), another("leaf, too");
    lock_in_turn(leaf, another);
  });
  CHECK(ended.aborted);
  CHECK(ended.said.find("'leaf, too' is locked while 'leaf' is held") != std::string::npos);
}

TEST_CASE("mutexes of one name are one, and a lock that was let go of is none") {
  CHECK(in_child([] {
          Mutex a("Agents"), another("Agents");
          lock_in_turn(a, another);
        }).aborted);
  CHECK_FALSE(in_child([] {
                Mutex agents("Agents"), leaf("leaf");
                lock_in_turn(agents, leaf);
                MutexLock lock(leaf);
                lock.unlock();
                lock_in_turn(agents);
              }).aborted);
}
