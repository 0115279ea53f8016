// SPDX-License-Identifier: GPL-2.0-or-later
// A daemon that dies exactly between sending a set and its acknowledgement ("keeper.handover"): the
// set is kept whole, or not at all, and the next daemon is served at once.
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>

#include "base/test_points.hpp"
#include "keeper_process.hpp"

using namespace ramfold;
using namespace ramfold::keeper;
using namespace ramfold::keeper::test;

namespace {

std::atomic<int> points_left{0};

void die_at_point(const char* name) {
  if (std::string_view(name) == "keeper.handover" && --points_left == 0) {
    ::kill(::getpid(), SIGKILL);
  }
}

}  // namespace

TEST_CASE("a daemon killed at its hand-over leaves the set whole or not at all") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  for (int round = 0; round < 200; ++round) {
    const std::string prefix = "v" + std::to_string(round) + ".";
    const pid_t daemon = ::fork();
    if (daemon == 0) {
      auto client = Client::connect(keeper.socket());
      points_left = 2;
      test_point_hook.store(die_at_point);
      const sys::Fd uffd = memfd(), ram = memfd(), words = memfd(), record = memfd();
      const std::string names[] = {prefix + "uffd", prefix + "ram", prefix + "words"};
      const std::array set{Keep{names[0], uffd}, Keep{names[1], ram}, Keep{names[2], words}};
      if (!client || !client->keep(prefix + "before", record)) ::_exit(1);
      (void)client->keep_together(set);
      ::_exit(2);  // the point was not reached
    }
    int status = 0;
    REQUIRE(::waitpid(daemon, &status, 0) == daemon);
    REQUIRE(WIFSIGNALED(status));
    auto next = Client::connect(keeper.socket());  // the first try: no waiting for the dead one
    REQUIRE(next);
    const auto all = next->take_all();
    REQUIRE(all);
    CHECK((all->size() == 1 || all->size() == 4));
    CHECK(all->front().name == prefix + "before");  // acknowledged
    REQUIRE(next->drop_prefix(prefix));
  }
}
