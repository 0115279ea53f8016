// SPDX-License-Identifier: GPL-2.0-or-later
// Who may have the host's lock. Of a killed daemon that cannot end: tests/kernel/hostile, `killed`.
#include "daemon/custody/predecessor.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/clock.hpp"
#include "sys/fake_tree.hpp"
#include "temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using ramfold::TempDir;
using ramfold::test::FakeTree;

namespace {

// A process that has the lock of `dir`, until it is killed.
pid_t holder(const std::string& dir) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const sys::Procfs procfs;
    const auto lock = take_host_lock(dir, procfs);
    (void)!::write(ends[1], lock ? "y" : "n", 1);
    for (;;) ::pause();
  }
  char answer = 0;
  REQUIRE(::read(ends[0], &answer, 1) == 1);
  CHECK(answer == 'y');
  ::close(ends[0]);
  ::close(ends[1]);
  return child;
}

void end(pid_t pid) {
  ::kill(pid, SIGKILL);
  REQUIRE(::waitpid(pid, nullptr, 0) == pid);
}

// What /proc says of a thread.
void write_task(const FakeTree& tree, pid_t pid, int id, const std::string& name,
                const std::string& state, bool killed) {
  const std::string at = "proc/" + std::to_string(pid) + "/task/" + std::to_string(id) + "/";
  tree.write(at + "stat",
             std::to_string(id) + " (" + name + ") " + state + " 1 1 1 0 -1 4194304 0");
  tree.write(at + "status", std::string("SigPnd:\t") + (killed ? "100" : "0") + "\n");
}

// A process that has the lock, of which /proc says what the test writes.
struct Described {
  const TempDir dir;
  const FakeTree tree;
  const sys::Procfs procfs{tree.root()};
  const pid_t pid = holder(dir.path());

  void thread(int id, const std::string& name, const std::string& state, bool killed) const {
    write_task(tree, pid, id, name, state, killed);
  }
};

}  // namespace

TEST_CASE("a daemon that lives keeps its lock, and one that was killed leaves it") {
  const TempDir dir;
  const sys::Procfs procfs;
  const pid_t first = holder(dir.path());
  const auto refused = take_host_lock(dir.path(), procfs);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().what.find("another ramfoldd is running") != std::string::npos);
  end(first);
  const auto taken = take_host_lock(dir.path(), procfs);
  REQUIRE(taken.has_value());
  CHECK_FALSE(taken->remains.has_value());
}

TEST_CASE("a holder of which one thread may still run is alive") {
  const Described first;
  first.thread(1, "ramfoldd", "Z", false);
  first.thread(2, "rf7-fold", "D", true);
  first.thread(3, "rf8-fault", "D", false);
  CHECK_FALSE(take_host_lock(first.dir.path(), first.procfs).has_value());
  end(first.pid);
}

TEST_CASE("what cannot end makes way after a moment, and is said to be there") {
  const Described first;
  first.thread(1, "ramfoldd", "Z", false);
  first.thread(2, "rf7-fold", "D", true);
  first.thread(3, "rf8-fold", "Z", true);
  first.thread(4, "rf-apart", "D", true);
  const std::uint64_t began_ns = monotonic_ns();
  const auto taken = take_host_lock(first.dir.path(), first.procfs);
  REQUIRE(taken.has_value());
  CHECK(monotonic_ns() - began_ns >= 1'000'000'000);
  REQUIRE(taken->remains.has_value());
  CHECK(taken->remains->pid == first.pid);
  CHECK(taken->remains->vms == std::vector{VmId{7}});
  // The new lock is one, and outlives the old one's end.
  end(first.pid);
  const pid_t second = ::fork();
  if (second == 0) ::_exit(take_host_lock(first.dir.path(), sys::Procfs()) ? 1 : 0);
  int status = -1;
  REQUIRE(::waitpid(second, &status, 0) == second);
  CHECK(status == 0);
}
