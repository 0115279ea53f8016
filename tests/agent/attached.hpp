// SPDX-License-Identifier: GPL-2.0-or-later
// What the tests of the agent's gate share: an attached program, and a place to stop its discards
// at. Threads: one test's.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "fake_daemon.hpp"

namespace agent_test {

inline constexpr size_t kMiB = 1 << 20;

struct Attached {
  explicit Attached(size_t bytes = 8 * kMiB, Guest::Options options = {})
      : daemon(temporary_directory() + "/agent.sock"),
        shared(bytes / 4096, 1),
        guest(daemon.path(), std::move(options)) {
    guest.good("ram 0 " + std::to_string(bytes));
    daemon.attached_from_scratch(shared, 1);
  }
  void return_daemon(uint32_t generation) {
    daemon.listen();
    daemon.hello();
    shared->session = generation;
    daemon.welcome(RF_ACTION_RESUME, generation, shared.fd());
    daemon.expect(RF_READY);
  }
  // The daemon lets the VM go and attaches it anew, with other memory. Does not wait for READY.
  void attach_anew(const Shared& next, uint8_t instance = 1) {
    rf_bare detached{};
    daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
    daemon.welcome(RF_ACTION_RESUME, 1, next.fd(), instance);
  }
  void answer_unfold(uint32_t hazard, uint32_t ok, uint32_t generation = 1) {
    const auto request = daemon.expect(RF_UNFOLD).as<rf_unfold>();
    CHECK(request.hazard == hazard);
    CHECK_FALSE(guest.answer_within(kSoonMs));
    rf_unfolded message{};
    message.token = request.token;
    message.ok = ok;
    daemon.send(&message, sizeof message, RF_UNFOLDED, generation);
  }
  Answer next() {
    const auto answer = guest.answer_within(kWaitMs);
    REQUIRE(answer);
    return *answer;
  }
  Daemon daemon;
  Shared shared;
  Guest guest;
};

inline Guest::Options with_environment(const std::string& assignment) {
  Guest::Options options;
  options.environment.push_back(assignment);
  return options;
}

inline Guest::Options with_probe(int fd, std::vector<std::string> environment = {}) {
  Guest::Options options;
  options.preload = SLOW_PUNCH;
  options.extra_fd = fd;
  options.environment = std::move(environment);
  options.environment.push_back("RF_TEST_PROBE=" + std::to_string(fd));
  return options;
}

struct Probe {
  Probe() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
  ~Probe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void reached() {
    char byte;
    REQUIRE(::read(ends[0], &byte, 1) == 1);
  }
  bool reached_within(int ms) const {
    pollfd p{ends[0], POLLIN, 0};
    return ::poll(&p, 1, ms) == 1;
  }
  void order(char byte) { REQUIRE(::write(ends[0], &byte, 1) == 1); }
  int ends[2];
};

}  // namespace agent_test
