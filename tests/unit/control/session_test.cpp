// SPDX-License-Identifier: GPL-2.0-or-later
// One client, served by a thread that does not run for longer than a deadline.
#include "control/session.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "sys/fd.hpp"

using namespace ramfold;
using namespace ramfold::control;
using namespace std::chrono_literals;

namespace {

constexpr auto kLong = 60s;
constexpr auto kShort = 1ms;
constexpr auto kStopped = 20ms;

struct Served {
  explicit Served(SessionLimits limits) {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    client = sys::Fd(ends[0]);
    session = std::make_shared<Session>(
        Session::Socket(io, boost::asio::local::stream_protocol(), ends[1]), Caller{}, limits,
        [this](const std::shared_ptr<Session>&, const std::string& line) { lines.push_back(line); },
        [this](const std::shared_ptr<Session>&) { closed = true; });
  }
  ~Served() { session->close(); }
  void say(std::string_view text) const {
    REQUIRE(::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(text.size()));
  }
  // All that is ready, after the thread was not run for a while.
  void run_late() {
    std::this_thread::sleep_for(kStopped);
    io.restart();
    io.poll();
  }

  boost::asio::io_context io;
  sys::Fd client;
  std::shared_ptr<Session> session;
  std::vector<std::string> lines;
  bool closed = false;
};

}  // namespace

TEST_CASE("a client that has taken its answer in time is not dropped, however late that is seen") {
  Served served({kLong, kShort});
  served.session->answer("done\n");
  served.run_late();
  CHECK_FALSE(served.closed);
  served.say("next\n");
  served.run_late();
  CHECK(served.lines == std::vector<std::string>{"next"});
}

TEST_CASE("a client whose request came in time is not dropped, however late that is seen") {
  Served served({kShort, kLong});
  served.say("request\n");
  served.session->start();
  served.run_late();
  CHECK(served.lines == std::vector<std::string>{"request"});
  CHECK_FALSE(served.closed);
}

TEST_CASE("a client is dropped when its deadline has run out") {
  SECTION("it says nothing") {
    Served served({kShort, kLong});
    served.session->start();
    served.run_late();
    CHECK(served.closed);
  }
  SECTION("it does not read") {
    Served served({kLong, kShort});
    served.session->answer(std::string(4u << 20, 'x'));
    served.run_late();
    CHECK(served.closed);
  }
}
