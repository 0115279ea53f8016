// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/command_channel.hpp"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "sys/message.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using guest::AgentAct;
using guest::AgentAnswer;
using guest::NotSent;
using namespace std::chrono_literals;

namespace {

struct Line {
  Line() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
    ours = sys::Fd(ends[0]);
    agents = sys::Fd(ends[1]);
    channel.open(ours, 9);
  }
  auto send(std::vector<PageRun> runs = {{PageIndex{1}, PageCount{1}}}) {
    return channel.send(AgentAct::forget, runs);
  }
  std::optional<rf_command> heard() {
    rf_command command{};
    const auto message =
        sys::receive(agents, std::as_writable_bytes(std::span(&command, 1)), MSG_DONTWAIT);
    REQUIRE(message);
    if (message->outcome != sys::Received::message) return std::nullopt;
    CHECK(message->size == sizeof command);
    return command;
  }
  void answer(std::uint32_t token, std::uint32_t status = RF_ANSWER_DONE) {
    rf_answer answer{};
    answer.token = token;
    answer.status = status;
    channel.answered(answer);
  }

  sys::Fd ours;
  sys::Fd agents;
  CommandChannel channel;
};

}  // namespace

TEST_CASE("commands: nothing is sent before the fence was answered, nor after the end") {
  CommandChannel fencing;
  const std::vector<PageRun> runs{{PageIndex{1}, PageCount{1}}};
  CHECK(fencing.send(AgentAct::forget, runs).error() == NotSent::closed);
  Line line;
  line.channel.close();
  CHECK(line.send().error() == NotSent::closed);
  line.channel.open(line.ours, 10);  // an agent that answers a fence again
  CHECK(line.send().error() == NotSent::closed);
  CHECK_FALSE(line.heard());
}

TEST_CASE("commands: a command says its session, its token and its runs") {
  Line line;
  const auto token = line.send({{PageIndex{3}, PageCount{2}}, {PageIndex{16}, PageCount{1}}});
  REQUIRE(token);
  const auto command = line.heard();
  REQUIRE(command);
  CHECK(command->h.type == RF_COMMAND);
  CHECK(command->h.generation == 9);
  CHECK(command->h.length == sizeof(rf_command));
  CHECK(command->token == token->value);
  CHECK(command->act == RF_ACT_FORGET);
  CHECK(command->runs == 2);
  CHECK(command->run[0].offset == 3 * kPageSize);
  CHECK(command->run[0].length == 2 * kPageSize);
  CHECK(command->run[1].offset == 16 * kPageSize);
}

TEST_CASE("commands: one that maps says where in the pool each run begins") {
  Line line;
  const std::array runs{PageRun{PageIndex{3}, PageCount{2}}, PageRun{PageIndex{16}, PageCount{1}}};
  const std::array in_pool{ByteCount{7 * kPageSize}, ByteCount{0x123456000}};
  REQUIRE(line.channel.send(AgentAct::map, runs, in_pool));
  rf_map_command map{};
  REQUIRE(::recv(line.agents.get(), &map, sizeof map, MSG_DONTWAIT) == sizeof map);
  CHECK(map.c.h.length == sizeof map);
  CHECK(map.c.act == RF_ACT_MAP);
  CHECK(map.c.runs == 2);
  CHECK(map.c.run[1].offset == 16 * kPageSize);
  CHECK(map.pool[0] == 7 * kPageSize);
  CHECK(map.pool[1] == 0x123456000);
  REQUIRE(line.channel.send(AgentAct::restore, runs));
  const auto restore = line.heard();
  REQUIRE(restore);
  CHECK(restore->act == RF_ACT_RESTORE);
  CHECK(restore->h.length == sizeof(rf_command));
}

TEST_CASE("commands: each answer is the one of its token, and is taken once") {
  Line line;
  const auto first = line.send();
  const auto second = line.send();
  const auto third = line.send();
  line.answer(second->value, RF_ANSWER_REFUSED);
  CHECK_FALSE(line.channel.take(*first, 0ms));
  CHECK(line.channel.take(*second, 0ms) == AgentAnswer::refused);
  line.answer(third->value, RF_ANSWER_FAILED);
  line.answer(first->value);
  line.answer(first->value, RF_ANSWER_FAILED);  // again: the first one counts
  line.answer(4711);                            // to nothing that was asked
  CHECK(line.channel.take(*first, 0ms) == AgentAnswer::done);
  CHECK(line.channel.take(*third, 0ms) == AgentAnswer::failed);
  const auto fourth = line.send();
  line.answer(fourth->value, 77);  // of a later version
  CHECK(line.channel.take(*fourth, 0ms) == AgentAnswer::failed);
}

TEST_CASE("commands: so many are under way, and no more, whoever waits for their answers") {
  Line line;
  std::vector<guest::AgentToken> tokens;
  for (std::size_t i = 0; i < guest::AgentPort::kUnderWayMax; ++i) tokens.push_back(*line.send());
  CHECK(line.send().error() == NotSent::full);
  line.channel.give_up(tokens[0]);
  CHECK(line.send().error() == NotSent::full);  // the agent still has it
  line.answer(tokens[0].value);
  const auto next = line.send();
  REQUIRE(next);
  line.answer(tokens[1].value);
  CHECK(line.send().error() == NotSent::full);  // its answer was not taken
  CHECK(line.channel.take(tokens[1], 0ms) == AgentAnswer::done);
  CHECK(line.send());
  for (std::size_t i = 0; i < guest::AgentPort::kUnderWayMax + 2; ++i) CHECK(line.heard());
  CHECK_FALSE(line.heard());
}

TEST_CASE("commands: an agent that does not read costs no place and no time") {
  Line line;
  const int small = 1;
  REQUIRE(::setsockopt(line.ours.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
  std::size_t sent = 0;
  while (line.send() && sent < guest::AgentPort::kUnderWayMax) ++sent;
  CHECK(sent < guest::AgentPort::kUnderWayMax);
  while (line.heard()) {
  }
  CHECK(line.send());
}

TEST_CASE("commands: with the connection they are lost, also for who waits") {
  Line line;
  const auto first = line.send();
  const auto second = line.send();
  const auto unwanted = line.send();
  line.channel.give_up(*unwanted);
  std::optional<AgentAnswer> got;
  std::thread waiter([&] { got = line.channel.take(*first, 60s); });
  line.channel.close();
  waiter.join();
  CHECK(got == AgentAnswer::lost);
  line.answer(second->value);  // too late
  CHECK(line.channel.take(*second, 0ms) == AgentAnswer::lost);
}

TEST_CASE("commands: who waits is told when the answer comes") {
  Line line;
  const auto token = line.send();
  std::optional<AgentAnswer> got;
  std::thread waiter([&] { got = line.channel.take(*token, 60s); });
  line.answer(token->value);
  waiter.join();
  CHECK(got == AgentAnswer::done);
  CHECK_FALSE(line.channel.take(*line.send(), 1ms));
}
