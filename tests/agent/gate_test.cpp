// SPDX-License-Identifier: GPL-2.0-or-later
// Requests to unfold, with the daemon alive, stopped and dead.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

#include "attached.hpp"
#include "patience.hpp"

using namespace agent_test;
using ramfold::test::patient;

namespace {

// Each gives RAM to a device, or to a process behind it, in a way that nobody sees afterwards.
constexpr std::array kConsumers{"udmabuf", "udmabuf_list", "map_file", "own_vhost /dev/null",
                                "vfio_device :83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"};

}  // namespace

TEST_CASE("remapping, locking, passing RAM on and exec wait until all is unfolded") {
  struct Case {
    const char* line;
    uint32_t hazard;
  };
  for (const Case& c :
       {Case{"munmap 0", RF_HAZARD_REMAP}, Case{"mremap 0", RF_HAZARD_REMAP},
        Case{"over 0", RF_HAZARD_REMAP}, Case{"again 0", RF_HAZARD_REMAP},
        Case{"allocate 0 0 0 4096", RF_HAZARD_REMAP},
        Case{"allocate 0 3 100 4096", RF_HAZARD_REMAP},
        Case{"posix_allocate 0 0 4096", RF_HAZARD_REMAP},
        Case{"truncate 0 8388608", RF_HAZARD_REMAP}, Case{"mlock 0", RF_HAZARD_LOCK},
        Case{"mlockall", RF_HAZARD_LOCK}, Case{"pass_ram 0", RF_HAZARD_RAM_FD_PASSED},
        Case{"userfaultfd", RF_HAZARD_OTHER_UFFD}, Case{"exec /bin/echo", RF_HAZARD_EXEC}}) {
    if (std::string(c.line) == "mlockall" && !kMlockallReachesAgent) continue;
    INFO(c.line);
    Attached a;
    a.guest.tell(c.line);
    a.answer_unfold(c.hazard, 1);
    CHECK(a.next().result >= 0);
    if (c.hazard == RF_HAZARD_EXEC) continue;
    CHECK((a.shared->sticky & c.hazard) == c.hazard);
    // Nothing will be folded any more: later ones need not ask.
    CHECK(a.guest.ask("mlock 0").error != EBUSY);
  }
}

TEST_CASE(
    "what gives RAM to a device by its file waits until all is unfolded, however it is asked") {
  for (const char* line : kConsumers) {
    INFO(line);
    Attached a(8 * kMiB, with_probe(-1));
    a.guest.tell(line);
    a.answer_unfold(RF_HAZARD_DEVICE, 1);
    CHECK(a.next() == Answer{0, 0});
    CHECK(a.shared->sticky == RF_HAZARD_DEVICE);
  }
}

TEST_CASE("a device that cannot wait for a page waits for all of them before") {
  Attached a(8 * kMiB, with_probe(-1));
  a.guest.tell("map_dma 0");
  a.answer_unfold(RF_HAZARD_DEVICE, 0);
  CHECK(a.next() == Answer{-1, EBUSY});
  CHECK(a.shared->sticky == 0);
  a.guest.tell("map_dma 0");
  a.answer_unfold(RF_HAZARD_DEVICE, 1);
  CHECK(a.next() == Answer{0, 0});
  CHECK(a.shared->sticky == RF_HAZARD_DEVICE);
}

TEST_CASE("devices that pin pages as threads do are not held, nor are the registers of devices") {
  Attached a(8 * kMiB, with_probe(-1));
  a.shared->runs_active = 1;
  for (const char* line :
       {"own_vhost /dev/kvm", "own_vhost /dev/net/tun", "vfio_device :0000:01:00.0",
        "map_registers", "open /dev/udmabuf 2", "open /etc/passwd 16384"}) {
    INFO(line);
    CHECK(a.guest.ask(line).error != EBUSY);
  }
  CHECK_FALSE(a.daemon.receive_within(0));
  CHECK(a.shared->sticky == 0);
}

TEST_CASE(
    "what gave RAM to a device before the attachment is told, and what the gate sees is not") {
  std::vector<std::string> lines(kConsumers.begin(), kConsumers.end());
  lines.emplace_back("");
  for (const std::string& line : lines) {
    INFO(line);
    Daemon daemon(temporary_directory() + "/agent.sock");
    Guest guest(daemon.path(), with_probe(-1));
    guest.good("ram 0 1048576");
    guest.good("map_dma 0");
    guest.good("vfio_device :0000:01:00.0");
    if (!line.empty()) guest.good(line);
    CHECK(daemon.hello().hazards == (line.empty() ? 0u : 0u | RF_HAZARD_DEVICE));
  }
}

TEST_CASE("a hazard that the daemon cannot allow does not begin") {
  Attached a;
  for (const char* line : {"munmap 0", "mlock 0", "pass_ram 0", "exec /bin/echo"}) {
    a.guest.tell(line);
    a.answer_unfold(std::string(line) == "munmap 0"     ? RF_HAZARD_REMAP
                    : std::string(line) == "mlock 0"    ? RF_HAZARD_LOCK
                    : std::string(line) == "pass_ram 0" ? RF_HAZARD_RAM_FD_PASSED
                                                        : RF_HAZARD_EXEC,
                    0);
    CHECK(a.next() == Answer{-1, EBUSY});
  }
  CHECK(a.shared->sticky == 0);
  CHECK(a.guest.good("poke 0 0 5") == 5);
}

TEST_CASE("a request to unfold outlives the daemon and is asked of the next") {
  Attached a;
  a.guest.tell("pass_ram 0");
  a.daemon.expect(RF_UNFOLD);
  a.daemon.die();
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.return_daemon(2);
  a.answer_unfold(RF_HAZARD_RAM_FD_PASSED, 1, 2);
  CHECK(a.next().result == 1);
}

TEST_CASE("a request to unfold that nobody answers fails in the end, with EBUSY") {
  const auto limit_ms = std::to_string(patient(300));
  Attached a(8 * kMiB, with_environment("RAMFOLD_UNFOLD_MS=" + limit_ms));
  CHECK(a.guest.ask("mlock 0") == Answer{-1, EBUSY});
  const auto late = a.daemon.expect(RF_UNFOLD).as<rf_unfold>();
  a.daemon.die();
  CHECK(a.guest.ask("munmap 0") == Answer{-1, EBUSY});
  a.return_daemon(2);
  // The answer to the first, which gave up, is nobody's.
  a.guest.tell("munmap 0");
  const auto request = a.daemon.expect(RF_UNFOLD).as<rf_unfold>();
  CHECK(request.token != late.token);
  rf_unfolded message{};
  message.token = late.token;
  message.ok = 1;
  a.daemon.send(&message, sizeof message, RF_UNFOLDED, 2);
  CHECK(a.next() == Answer{-1, EBUSY});
}

TEST_CASE("a request to unfold waits while pages come back, and no longer") {
  const int limit_ms = patient(1000);
  // answer_within() scales what is longer than a look.
  const int step_ms = std::min(limit_ms / 10, 900);
  const int steps_beyond_limit = 3 * limit_ms / 2 / step_ms;
  Attached a(8 * kMiB, with_environment("RAMFOLD_UNFOLD_MS=" + std::to_string(limit_ms)));
  a.guest.tell("munmap 0");
  rf_unfolding news{};
  news.token = a.daemon.expect(RF_UNFOLD).as<rf_unfold>().token;
  news.all = 1000;
  const auto tell = [&](uint32_t generation) {
    news.h.flags = RF_FLAG_SKIPPABLE;
    a.daemon.send(&news, sizeof news, RF_UNFOLDING, generation);
  };
  for (int i = 0; i < steps_beyond_limit; ++i) {
    ++news.done;
    tell(1);
    CHECK_FALSE(a.guest.answer_within(step_ms));
  }
  SECTION("all is back") {
    rf_unfolded message{};
    message.token = news.token;
    message.ok = 1;
    a.daemon.send(&message, sizeof message, RF_UNFOLDED, 1);
    CHECK(a.next() == Answer{0, 0});
  }
  SECTION("nothing more comes back, whatever is said") {
    std::optional<Answer> answer;
    for (int i = 0; i < 10 * steps_beyond_limit && !answer; ++i) {
      tell(1);
      answer = a.guest.answer_within(step_ms);
    }
    REQUIRE(answer);
    CHECK(*answer == Answer{-1, EBUSY});
  }
  SECTION("what is said of another request does not count") {
    std::optional<Answer> answer;
    ++news.token;
    for (int i = 0; i < 10 * steps_beyond_limit && !answer; ++i) {
      ++news.done;
      tell(1);
      answer = a.guest.answer_within(step_ms);
    }
    REQUIRE(answer);
    CHECK(*answer == Answer{-1, EBUSY});
  }
  SECTION("the next daemon counts from the beginning") {
    a.daemon.die();
    a.return_daemon(2);
    CHECK(a.daemon.expect(RF_UNFOLD).as<rf_unfold>().token == news.token);
    news.done = 0;
    for (int i = 0; i < steps_beyond_limit; ++i) {
      ++news.done;
      tell(2);
      CHECK_FALSE(a.guest.answer_within(step_ms));
    }
    CHECK(a.next() == Answer{-1, EBUSY});
  }
}

TEST_CASE("after a detach the agent stands before nothing, and can be attached again") {
  Attached a;
  rf_bare detached{};
  a.daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
  rf_bare fence{};
  a.daemon.send(&fence, sizeof fence, RF_FENCE, 1);
  a.daemon.expect(RF_FENCED);
  CHECK(a.guest.good("allocate 0 3 0 4096") == 0);
  CHECK(a.shared.bits() == 0);
  CHECK(a.guest.good("pass_ram 0") == 1);
  CHECK_FALSE(a.daemon.receive_within(0));
  a.daemon.offer(1);
  Shared second(2048, 1);
  a.daemon.attach(second, 1);
  CHECK(a.guest.good("allocate 0 3 0 4096") == 0);
  CHECK(second.bit(0));
  CHECK(a.shared.bits() == 0);
}

TEST_CASE("what was promised for an attachment does not hold for the next") {
  Probe probe;
  Attached a(8 * kMiB, with_probe(probe.ends[1]));
  std::vector<std::unique_ptr<Shared>> shared;
  const auto begin_next = [&] {
    shared.push_back(std::make_unique<Shared>(2048, 1));
    a.attach_anew(*shared.back(), static_cast<uint8_t>(shared.size()));
  };
  unsigned asked_anew = 0;
  for (unsigned round = 0; round < 10; ++round) {
    begin_next();
    a.daemon.expect(RF_READY);
    // The call waits for this attachment. It ends, and the next begins, while the call sleeps.
    a.guest.tell("allocate 0 3 0 100");
    a.daemon.expect(RF_UNFOLD);
    CHECK_FALSE(a.guest.answer_within(kSoonMs));
    begin_next();
    if (a.daemon.receive_within(kSoonMs)) {  // RF_READY: from here on pages may be folded
      ++asked_anew;
      CHECK_FALSE(probe.reached_within(kSoonMs));
      a.answer_unfold(RF_HAZARD_REMAP, 1);
      probe.reached();
      probe.order('g');
      CHECK(a.next() == Answer{0, 0});
    } else {  // it passed while nothing stood, and folding waits for its end
      probe.reached();
      CHECK_FALSE(a.daemon.receive_within(0));
      probe.order('g');
      CHECK(a.next() == Answer{0, 0});
      a.daemon.expect(RF_READY);
    }
  }
  CHECK(asked_anew > 0);
}

TEST_CASE("a userfaultfd of QEMU's own stands against its attachment, not against the next") {
  Attached a;
  a.guest.tell("userfaultfd");
  a.answer_unfold(RF_HAZARD_OTHER_UFFD, 1);
  CHECK(a.next().result >= 0);
  CHECK((a.shared->sticky & RF_HAZARD_OTHER_UFFD) != 0);
  SECTION("the next daemon resumes the attachment") {
    a.daemon.die();
    a.return_daemon(2);
    CHECK((a.shared->sticky & RF_HAZARD_OTHER_UFFD) != 0);
  }
  SECTION("the VM is attached anew: whether it is still open can be seen in /proc") {
    const Shared next(2048, 1);
    a.attach_anew(next);
    a.daemon.expect(RF_READY);
    CHECK(next->sticky == 0);
    // Another one waits again.
    a.guest.tell("userfaultfd");
    a.answer_unfold(RF_HAZARD_OTHER_UFFD, 1);
    CHECK(a.next().result >= 0);
    CHECK((next->sticky & RF_HAZARD_OTHER_UFFD) != 0);
  }
}

TEST_CASE(
    "a hazard that needs not ask, because all is unfolded, stands against the next attachment") {
  Attached a;
  a.guest.tell("userfaultfd");
  a.answer_unfold(RF_HAZARD_OTHER_UFFD, 1);
  CHECK(a.next().result >= 0);
  CHECK(a.guest.good("pass_ram 0") == 1);
  const Shared next(2048, 1);
  a.attach_anew(next);
  a.daemon.expect(RF_READY);
  CHECK(next->sticky == RF_HAZARD_RAM_FD_PASSED);
}

TEST_CASE("READY waits for calls that began before the attachment") {
  Probe probe;
  Daemon daemon(temporary_directory() + "/agent.sock");
  Guest guest(daemon.path(), with_probe(probe.ends[1]));
  guest.good("ram 0 1048576");
  daemon.hello();
  daemon.offer(1);
  guest.tell("allocate 0 3 0 4096");
  probe.reached();
  Shared shared(256, 1);
  rf_attached message{};
  message.pages = 256;
  daemon.send(&message, sizeof message, RF_ATTACHED, 1, shared.fd());
  CHECK_FALSE(daemon.receive_within(kSoonMs));
  probe.order('g');
  daemon.expect(RF_READY);
  CHECK(guest.answer_within(kWaitMs) == Answer{0, 0});
}

TEST_CASE("a connection that the agent ends still guards until the daemon closes it") {
  Attached a;
  a.shared->filling[0].word = 1;
  rf_bare nonsense{};
  a.daemon.send(&nonsense, sizeof nonsense, 99, 1);
  CHECK(a.daemon.receive().bytes.empty());
  a.guest.tell("allocate 0 3 0 4096");
  CHECK_FALSE(a.guest.answer_within(kSoonMs));  // the daemon's fill goes on
  a.daemon.hang_up();
  CHECK(a.next() == Answer{0, 0});
}

TEST_CASE("children are none of the agent's business") {
  Attached a;
  CHECK(a.guest.good("child") == 0);
  CHECK_FALSE(a.daemon.receive_within(0));
  CHECK(a.shared->sticky == 0);
}
