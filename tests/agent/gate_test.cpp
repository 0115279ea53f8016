// SPDX-License-Identifier: GPL-2.0-or-later
// Holds and requests to unfold, with the daemon alive, busy, stopped and dead.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "attached.hpp"

using namespace agent_test;

TEST_CASE("opening an O_DIRECT file waits until no run is under way") {
  Attached a;
  a.shared->runs_active = 1;
  a.guest.tell("open /etc/passwd 16384");
  const auto hint = a.daemon.expect(RF_HOLD).as<rf_hold>();
  CHECK(hint.hazard == RF_HAZARD_DIRECT_IO);
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  CHECK(a.shared->pending == 1);
  CHECK(a.shared->sequence == 1);
  a.shared->runs_active = 0;
  const Answer opened = a.next();
  CHECK(opened.result >= 0);
  CHECK(a.shared->pending == 0);
  CHECK(a.shared->sequence == 2);
  CHECK(a.shared->sticky == 0);
  // Its end is worth a hint.
  a.guest.good("close " + std::to_string(opened.result));
  const Packet changed = a.daemon.expect(RF_CHANGED);
  CHECK((changed.as<rf_header>().flags & RF_FLAG_SKIPPABLE) != 0);
}

TEST_CASE("every way to an O_DIRECT descriptor is held") {
  Attached a;
  const long plain = a.guest.good("open /etc/passwd 0");
  CHECK(a.shared->sequence == 0);
  a.shared->runs_active = 1;
  for (const std::string& line :
       {std::string("receive /etc/passwd 16384"), "setfl " + std::to_string(plain) + " 16384"}) {
    a.guest.tell(line);
    CHECK_FALSE(a.guest.answer_within(kSoonMs));
    CHECK(a.shared->pending == 1);
    a.shared->runs_active = 0;
    CHECK(a.next().result >= 0);
    CHECK(a.shared->pending == 0);
    a.shared->runs_active = 1;
  }
  CHECK(a.guest.good("setfl " + std::to_string(plain) + " 16384") == 0);  // it was so already
}

TEST_CASE("a file system that is not known to copy is held, known ones are not") {
  Attached a;
  a.shared->runs_active = 1;
  for (const char* line : {"open /dev/null 2", "open /proc/self/stat 0", "open /etc/passwd 0",
                           "open /dev/zero 0", "open /etc 0", "open /dev/urandom 0",
                           "fopen /etc/passwd", "receive /etc/passwd 0", "open /nowhere 16384"})
    CHECK(a.guest.ask(line).error ==
          (std::string(line).find("nowhere") == std::string::npos ? 0 : ENOENT));
  CHECK(a.shared->sequence == 0);
}

TEST_CASE("a file of another file system is held, whatever its flags") {
  Guest::Options options;
  options.command = {"/bin/sh", "-c",
                     std::string("exec unshare -m sh -c 'mount -t overlay none -o "
                                 "lowerdir=/etc:/usr /mnt && exec ") +
                         FAKE_QEMU + "'"};
  Daemon daemon(temporary_directory() + "/agent.sock");
  Guest guest(daemon.path(), std::move(options));
  try {
    if (!guest.answer_within(kWaitMs)) FAIL("no start");
  } catch (const std::runtime_error&) {
    WARN("no overlay can be mounted here");
    return;
  }
  guest.good("ram 0 1048576");
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  shared->runs_active = 1;
  for (const char* line : {"open /mnt/passwd 0", "fopen /mnt/passwd", "receive /mnt/passwd 0"}) {
    guest.tell(line);
    CHECK(daemon.expect(RF_HOLD).as<rf_hold>().hazard == RF_HAZARD_FILESYSTEM);
    CHECK_FALSE(guest.answer_within(kSoonMs));
    shared->runs_active = 0;
    CHECK(guest.answer_within(kWaitMs)->result >= 0);
    shared->runs_active = 1;
  }
}

TEST_CASE("a hold ends with the daemon's death") {
  Attached a;
  a.shared->runs_active = 1;
  a.guest.tell("open /etc/passwd 16384");
  CHECK_FALSE(a.guest.answer_within(kSoonMs));
  a.daemon.die();
  CHECK(a.next().result >= 0);
  CHECK(a.shared->pending == 0);
  // Nobody folds now: no waiting.
  CHECK(a.guest.good("open /etc/passwd 16384") >= 0);
}

TEST_CASE("a hold that takes too long fails the call and leaves nothing open") {
  Attached a(8 * kMiB, with_environment("RAMFOLD_HOLD_MS=200"));
  const long open_before = a.guest.good("count");
  const long plain = a.guest.good("open /etc/passwd 0");
  a.shared->runs_active = 1;
  CHECK(a.guest.ask("open /etc/passwd 16384") == Answer{-1, EBUSY});
  CHECK(a.guest.ask("receive /etc/passwd 16384") == Answer{-1, EBUSY});
  CHECK(a.guest.ask("setfl " + std::to_string(plain) + " 16384") == Answer{-1, EBUSY});
  CHECK(a.guest.ask("sg_io " + std::to_string(plain)) == Answer{-1, EBUSY});
  CHECK(a.guest.good("count") == open_before + 1);
  CHECK(a.shared->pending == 0);
}

TEST_CASE("SG_IO and registered buffers are held once and recorded for good") {
  Attached a;
  a.shared->runs_active = 1;
  uint32_t sticky = 0;
  for (const auto& [line, hazard] :
       {std::pair("sg_io 0", RF_HAZARD_SG_IO), std::pair("register 0", RF_HAZARD_FIXED_BUFFERS)}) {
    a.guest.tell(line);
    CHECK_FALSE(a.guest.answer_within(kSoonMs));
    sticky |= hazard;
    CHECK(a.shared->sticky == sticky);
    a.shared->runs_active = 0;
    const Answer answer = a.next();
    CHECK(answer.result == -1);
    CHECK(answer.error != EBUSY);
    a.shared->runs_active = 1;
    CHECK(a.guest.ask(line) == answer);  // no waiting any more
  }
}

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
        Case{"userfaultfd", RF_HAZARD_OTHER_UFFD}, Case{"open /dev/mem 0", RF_HAZARD_DEVICE},
        Case{"exec /bin/echo", RF_HAZARD_EXEC}}) {
    if (std::string(c.line) == "open /dev/mem 0" && ::access("/dev/mem", R_OK) != 0) continue;
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
  Attached a(8 * kMiB, with_environment("RAMFOLD_UNFOLD_MS=300"));
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
  constexpr int kLimitMs = 2000;
  constexpr int kStepMs = 300;
  Attached a(8 * kMiB, with_environment("RAMFOLD_UNFOLD_MS=2000"));
  a.guest.tell("munmap 0");
  rf_unfolding news{};
  news.token = a.daemon.expect(RF_UNFOLD).as<rf_unfold>().token;
  news.all = 1000;
  const auto tell = [&](uint32_t generation) {
    news.h.flags = RF_FLAG_SKIPPABLE;
    a.daemon.send(&news, sizeof news, RF_UNFOLDING, generation);
  };
  for (int ms = 0; ms < 2 * kLimitMs; ms += kStepMs) {
    ++news.done;
    tell(1);
    CHECK_FALSE(a.guest.answer_within(kStepMs));
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
    for (int i = 0; i < 100 && !answer; ++i) {
      tell(1);
      answer = a.guest.answer_within(kStepMs);
    }
    REQUIRE(answer);
    CHECK(*answer == Answer{-1, EBUSY});
  }
  SECTION("what is said of another request does not count") {
    std::optional<Answer> answer;
    ++news.token;
    for (int i = 0; i < 100 && !answer; ++i) {
      ++news.done;
      tell(1);
      answer = a.guest.answer_within(kStepMs);
    }
    REQUIRE(answer);
    CHECK(*answer == Answer{-1, EBUSY});
  }
  SECTION("the next daemon counts from the beginning") {
    a.daemon.die();
    a.return_daemon(2);
    CHECK(a.daemon.expect(RF_UNFOLD).as<rf_unfold>().token == news.token);
    news.done = 0;
    for (int ms = 0; ms < 2 * kLimitMs; ms += kStepMs) {
      ++news.done;
      tell(2);
      CHECK_FALSE(a.guest.answer_within(kStepMs));
    }
    CHECK(a.next() == Answer{-1, EBUSY});
  }
}

TEST_CASE("after a detach the agent stands before nothing, and can be attached again") {
  Attached a;
  a.shared->runs_active = 1;
  rf_bare detached{};
  a.daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
  rf_bare fence{};
  a.daemon.send(&fence, sizeof fence, RF_FENCE, 1);
  a.daemon.expect(RF_FENCED);
  CHECK(a.guest.good("allocate 0 3 0 4096") == 0);
  CHECK(a.shared.bits() == 0);
  CHECK(a.guest.good("open /etc/passwd 16384") >= 0);
  CHECK(a.shared->sequence == 0);
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
    rf_bare detached{};
    a.daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
    shared.push_back(std::make_unique<Shared>(2048, 1));
    rf_welcome welcome{};
    welcome.version = RF_VERSION_MAX;
    welcome.action = RF_ACTION_RESUME;
    welcome.instance[0] = static_cast<uint8_t>(shared.size());
    a.daemon.send(&welcome, sizeof welcome, RF_WELCOME, 1, shared.back()->fd());
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
    rf_bare detached{};
    a.daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
    const Shared next(2048, 1);
    rf_welcome welcome{};
    welcome.version = RF_VERSION_MAX;
    welcome.action = RF_ACTION_RESUME;
    welcome.instance[0] = 1;
    a.daemon.send(&welcome, sizeof welcome, RF_WELCOME, 1, next.fd());
    a.daemon.expect(RF_READY);
    CHECK(next->sticky == 0);
    // Another one waits again.
    a.guest.tell("userfaultfd");
    a.answer_unfold(RF_HAZARD_OTHER_UFFD, 1);
    CHECK(a.next().result >= 0);
    CHECK((next->sticky & RF_HAZARD_OTHER_UFFD) != 0);
  }
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
  a.shared->runs_active = 1;
  a.guest.tell("open /etc/passwd 16384");
  a.daemon.expect(RF_HOLD);
  rf_bare nonsense{};
  a.daemon.send(&nonsense, sizeof nonsense, 99, 1);
  CHECK(a.daemon.receive().bytes.empty());
  CHECK_FALSE(a.guest.answer_within(kSoonMs));  // the daemon's run goes on
  a.daemon.hang_up();
  CHECK(a.next().result >= 0);
}

TEST_CASE("children are none of the agent's business") {
  Attached a;
  a.shared->runs_active = 1;
  CHECK(a.guest.good("child") == 0);
  CHECK(a.shared->sequence == 0);
  CHECK(a.shared->pending == 0);
}
