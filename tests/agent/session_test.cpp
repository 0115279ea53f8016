// SPDX-License-Identifier: GPL-2.0-or-later
// Finding RAM, connecting, offering, and being absent.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "fake_daemon.hpp"

using namespace agent_test;

namespace {

constexpr size_t kMiB = 1 << 20;

std::string socket_path() { return temporary_directory() + "/agent.sock"; }

std::string ram(int id, size_t bytes) {
  return "ram " + std::to_string(id) + " " + std::to_string(bytes);
}

size_t lines_in(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

uint64_t api(const Fd& uffd) {
  uffdio_api request{};
  request.api = UFFD_API;
  request.features =
      UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_THREAD_ID;
  REQUIRE(::ioctl(uffd.get(), UFFDIO_API, &request) == 0);
  return request.features;
}

}  // namespace

TEST_CASE("the offer names the blocks and brings their files and a working userfaultfd") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  const auto at = static_cast<uint64_t>(guest.good(ram(0, 4 * kMiB)));
  const auto at1 = static_cast<uint64_t>(guest.good(ram(1, 2 * kMiB)));
  const rf_hello hello = daemon.hello();
  CHECK(hello.version_min == RF_VERSION_MIN);
  CHECK(hello.version_max == RF_VERSION_MAX);
  CHECK(hello.blocks == 2);
  if (::geteuid() == 0) CHECK((hello.capabilities & RF_CAP_MAPPING) == 0);  // root's QEMU
  CHECK((hello.capabilities & ~std::uint64_t{RF_CAP_MAPPING}) ==
        (RF_CAP_DISCARD | RF_CAP_CONSUMERS | RF_CAP_FILLS | RF_CAP_COMMANDS | RF_CAP_SMALL_FOLIOS));
  CHECK(hello.hazards == 0);
  CHECK(std::all_of(std::begin(hello.instance), std::end(hello.instance),
                    [](auto b) { return b == 0; }));
  const rf_offer offer = daemon.offer(1);
  REQUIRE(offer.blocks == 2);
  CHECK(offer.block[0].address == at);
  CHECK(offer.block[0].size == 4 * kMiB);
  CHECK(offer.block[0].offset == 0);
  CHECK(offer.block[1].address == at1);
  CHECK(offer.block[1].size == 2 * kMiB);
  for (unsigned i = 0; i < 2; ++i) {
    struct stat s{};
    REQUIRE(::fstat(daemon.ram[i].get(), &s) == 0);
    CHECK(s.st_dev == offer.block[i].device);
    CHECK(s.st_ino == offer.block[i].inode);
    CHECK(static_cast<uint64_t>(s.st_size) == offer.block[i].size);
  }

  // The agent leaves UFFDIO_API to the daemon.
  api(daemon.uffd);
  register_all(daemon.uffd, at, 4 * kMiB);
  guest.tell("peek 0 8192");
  uint64_t fault = 0;
  REQUIRE(missing_within(daemon.uffd, kWaitMs, &fault));
  CHECK((fault & ~uint64_t{4095}) == at + 8192);
  CHECK_FALSE(guest.answer_within(50));
  install(daemon.uffd, fault, 0x5a);
  CHECK(guest.answer_within(kWaitMs)->result == 0x5a);
}

TEST_CASE("attached RAM is not huge and does not fork") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  const long at = guest.good(ram(0, 2 * kMiB));
  Shared shared(512, 1);
  daemon.attached_from_scratch(shared, 1);

  std::ifstream smaps("/proc/" + std::to_string(guest.pid) + "/smaps");
  char begin[32];
  std::snprintf(begin, sizeof begin, "%lx-", at);
  std::string line;
  while (std::getline(smaps, line) && line.rfind(begin, 0) != 0) {
  }
  while (std::getline(smaps, line) && line.rfind("VmFlags", 0) != 0) {
  }
  CHECK(line.find(" nh") != std::string::npos);
  CHECK(line.find(" dc") != std::string::npos);
  // ... and cannot be made so again.
  CHECK(guest.ask("advise 0 14 0 2097152").result == 0);  // MADV_HUGEPAGE
  CHECK(guest.ask("advise 0 25 0 2097152").result == 0);  // MADV_COLLAPSE
  CHECK(guest.ask("advise 0 11 0 2097152").result == 0);  // MADV_DOFORK
  std::ifstream again("/proc/" + std::to_string(guest.pid) + "/smaps");
  while (std::getline(again, line) && line.rfind(begin, 0) != 0) {
  }
  while (std::getline(again, line) && line.rfind("VmFlags", 0) != 0) {
  }
  CHECK(line.find(" nh") != std::string::npos);
  CHECK(line.find(" dc") != std::string::npos);
}

TEST_CASE("RAM is kept from large folios from the first page on, and that is said") {
  const std::string path = socket_path();
  Guest guest(path, {});
  const long at = guest.good(ram(0, 2 * kMiB));
  const bool filled = GENERATE(false, true);
  if (filled) CHECK(guest.good("allocate 0 0 0 4096") == 0);  // by its descriptor
  CHECK(guest.ask("advise 0 14 0 2097152").result == 0);      // MADV_HUGEPAGE, before any attach
  std::ifstream smaps("/proc/" + std::to_string(guest.pid) + "/smaps");
  char begin[32];
  std::snprintf(begin, sizeof begin, "%lx-", at);
  std::string line;
  while (std::getline(smaps, line) && line.rfind(begin, 0) != 0) {
  }
  while (std::getline(smaps, line) && line.rfind("VmFlags", 0) != 0) {
  }
  CHECK(line.find(" nh") != std::string::npos);
  CHECK(line.find(" hg") == std::string::npos);
  Daemon daemon(path);
  const rf_hello hello = daemon.hello();
  CHECK(((hello.capabilities & RF_CAP_SMALL_FOLIOS) != 0) == !filled);
}

TEST_CASE("RAM mapped after the offer is left alone") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  guest.good(ram(1, kMiB));
  CHECK(guest.good("poke 1 4096 7") == 7);
  CHECK(guest.good("allocate 1 3 0 1048576") == 0);
  CHECK(shared.bits() == 0);
  CHECK(guest.good("peek 1 4096") == 0);
  CHECK(guest.good("pass_ram 1") == 1);
  CHECK(guest.good("munmap 1") == 0);
  CHECK(shared->sequence == 0);
  daemon.die();
  daemon.listen();
  CHECK(daemon.hello().blocks == 1);
}

TEST_CASE("no daemon: one line, and the program does what it would do without") {
  const std::string path = socket_path();
  std::vector<Answer> answers[2];
  for (const bool agent : {false, true}) {
    Guest::Options options;
    options.agent = agent;
    Guest guest(path, std::move(options));
    auto& got = answers[agent ? 1 : 0];
    guest.good(ram(0, kMiB));
    for (const char* line : {"poke 0 0 7",
                             "allocate 0 3 0 4096",
                             "peek 0 0",
                             "allocate 0 0 0 4096",
                             "allocate 0 3 1 4096",
                             "advise 0 9 0 4096",
                             "advise 0 14 0 4096",
                             "advise 0 4 0 4096",
                             "posix_allocate 0 0 4096",
                             "truncate 0 4096",
                             "open /dev/null 0",
                             "udmabuf",
                             "udmabuf_list",
                             "map_file",
                             "map_dma 0",
                             "own_vhost /dev/null",
                             "vfio_device :0000:01:00.0",
                             "vfio_device :83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
                             "mlock 0",
                             "pass_ram 0",
                             "child",
                             "close 99",
                             "close_all :range",
                             "again 0"})
      got.push_back(guest.ask(line));
    got.back().result = got.back().result > 0;  // an address
    if (agent) guest.wait_for_errors();
    ::usleep(300'000);  // for a second attempt to connect, about which nothing may be said
    CHECK(guest.good("munmap 0") == 0);
    CHECK(lines_in(guest.read_errors()) == (agent ? 1 : 0));
    if (agent) CHECK(guest.read_errors().find("ramfold: no daemon at " + path) == 0);
    guest.finish();
    CHECK(guest.exit_status == 0);
  }
  CHECK(answers[0] == answers[1]);
}

TEST_CASE("a daemon that comes later is found, and one that returns is found again") {
  const std::string path = socket_path();
  Guest guest(path, {});
  guest.good(ram(0, kMiB));
  ::usleep(300'000);
  Daemon daemon(path);
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  struct stat first{};
  REQUIRE(::fstat(daemon.uffd.get(), &first) == 0);
  for (uint32_t generation = 2; generation < 5; ++generation) {
    daemon.die();
    ::usleep(50'000);
    daemon.listen();
    const rf_hello hello = daemon.hello();
    CHECK(hello.instance[0] == 42);
    shared->session = generation;
    daemon.welcome(RF_ACTION_RESUME, generation, shared.fd());
    CHECK(daemon.expect(RF_READY).as<rf_ready>().h.generation == generation);
  }
  // A daemon that lost everything gets the uffd of the first offer, not another one.
  daemon.die();
  daemon.listen();
  daemon.hello();
  const auto flags = [&] {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(daemon.uffd.get()));
    return std::string(std::istreambuf_iterator<char>(info), {});
  };
  const std::string before = flags();
  api(daemon.uffd);
  const rf_offer offer = daemon.offer(9);
  CHECK(offer.blocks == 1);
  uffdio_api request{};
  request.api = UFFD_API;
  CHECK(::ioctl(daemon.uffd.get(), UFFDIO_API, &request) == -1);  // it has been done
  CHECK(guest.read_errors().find('\n') == guest.read_errors().size() - 1);
}

TEST_CASE(
    "with pages folded the program is not attached anew by a daemon that does not know them") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  shared->folded = 1;
  daemon.die();
  daemon.listen();
  CHECK(daemon.hello().folded == 1);
  const Fd device = open_userfaultfd();
  daemon.welcome(RF_ACTION_OFFER, 2, device.get());
  CHECK(daemon.receive().bytes.empty());
  daemon.hang_up();
  CHECK(guest.read_errors() ==
        "ramfold: the daemon does not know this VM's folded pages; they wait\n");
  // One that knows them.
  CHECK(daemon.hello().folded == 1);
  shared->session = 3;
  daemon.welcome(RF_ACTION_RESUME, 3, shared.fd());
  daemon.expect(RF_READY);
  // Nothing is folded any more.
  rf_bare detached{};
  daemon.send(&detached, sizeof detached, RF_DETACHED, 3);
  daemon.die();
  daemon.listen();
  CHECK(daemon.hello().folded == 0);
  daemon.offer(4);
}

TEST_CASE("a daemon that restarts is nothing to speak of, one that stays away is") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  daemon.die();
  ::usleep(500'000);
  CHECK(guest.read_errors().empty());
  guest.wait_for_errors();
  CHECK(guest.read_errors().find("is gone (No such file or directory); folded memory waits") !=
        std::string::npos);
  CHECK(lines_in(guest.read_errors()) == 1);
}

TEST_CASE("refused, or another version: one line each, and QEMU runs on") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  for (int i = 0; i < 2; ++i) {
    daemon.hello();
    rf_refused refused{};
    std::strcpy(refused.text, "not this VM\nat all");
    daemon.send(&refused, sizeof refused, RF_REFUSED, 1);
    CHECK(daemon.receive().bytes.empty());
  }
  CHECK(guest.read_errors() == "ramfold: refused: not this VM at all\n");
  daemon.hello();
  rf_welcome welcome{};
  welcome.version = 77;
  welcome.action = RF_ACTION_WAIT;
  daemon.send(&welcome, sizeof welcome, RF_WELCOME, 1);
  CHECK(daemon.receive().bytes.empty());
  CHECK(guest.read_errors().find("the daemon speaks version 77, this agent 1 to 1\n") !=
        std::string::npos);
  daemon.hello();
  rf_welcome short_one{};
  daemon.send(&short_one, sizeof(rf_header), RF_WELCOME, 1);
  CHECK(daemon.receive().bytes.empty());
  CHECK(lines_in(guest.read_errors()) == 3);
  CHECK(guest.good("poke 0 0 7") == 7);
  CHECK(guest.good("allocate 0 3 0 4096") == 0);
  guest.finish();
  CHECK(guest.exit_status == 0);
}

TEST_CASE("an agent that cannot work says so in one line") {
  Daemon daemon(socket_path());
  Guest::Options options;
  std::string said;
  SECTION("the socket's path is too long") {
    options.environment.push_back("RAMFOLD_AGENT_SOCKET=/" + std::string(120, 'x'));
    Guest guest(daemon.path(), options);
    guest.good(ram(0, kMiB));
    guest.wait_for_errors();
    said = guest.read_errors();
    CHECK(said.find("RAMFOLD_AGENT_SOCKET is longer than 107 bytes") != std::string::npos);
  }
  SECTION("RAM is private") {
    Guest guest(daemon.path(), options);
    guest.good("private");
    guest.wait_for_errors();
    said = guest.read_errors();
    CHECK(said.find("share=on") != std::string::npos);
  }
  SECTION("more RAM blocks than the protocol knows") {
    Guest guest(daemon.path(), options);
    for (int i = 0; i < 18; ++i) guest.good(ram(i, kMiB));
    CHECK(daemon.hello().blocks == RF_BLOCKS_MAX);
    said = guest.read_errors();
    CHECK(said.find("more than 16 RAM blocks") != std::string::npos);
  }
  SECTION("the daemon hangs up without an answer, again and again") {
    Guest guest(daemon.path(), options);
    guest.good(ram(0, kMiB));
    for (int i = 0; i < 6; ++i) {
      daemon.accept();
      daemon.hang_up();
      if (i == 2) CHECK(guest.read_errors().empty());
    }
    guest.wait_for_errors();
    said = guest.read_errors();
    CHECK(said.find("closes each connection without an answer") != std::string::npos);
  }
  SECTION("its user may not use the socket") {
    REQUIRE(::chmod(daemon.path().c_str(), 0600) == 0);
    const std::string place = temporary_directory();
    for (const auto& [from, to] : {std::pair{AGENT_LIBRARY, "agent.so"}, {FAKE_QEMU, "qemu"}}) {
      std::filesystem::copy_file(from, place + "/" + to);
    }
    options.command = {place + "/qemu"};
    options.library = place + "/agent.so";
    options.uid = 65534;
    Guest guest(daemon.path(), options);
    guest.tell(ram(0, kMiB));
    guest.wait_for_errors();
    said = guest.read_errors();
    CHECK(said.find("it is not in the group that agent_group") != std::string::npos);
  }
  CHECK(lines_in(said) == 1);
  CHECK(said.starts_with("ramfold: "));
}

TEST_CASE("messages that are unknown but skippable are skipped, and longer ones understood") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  daemon.hello();
  daemon.welcome(RF_ACTION_WAIT, 3);
  rf_bare later{};
  later.h.flags = RF_FLAG_SKIPPABLE;
  daemon.send(&later, sizeof later, 99, 3);
  struct {
    rf_bare fence;
    char appended[40];
  } longer{};
  daemon.send(&longer, sizeof longer, RF_FENCE, 3);
  CHECK(daemon.expect(RF_FENCED).as<rf_header>().generation == 3);
  // What a session says that is over is dropped (D10).
  rf_bare old{};
  daemon.send(&old, sizeof old, RF_FENCE, 2);
  daemon.send(&old, sizeof old, RF_FENCE, 3);
  daemon.expect(RF_FENCED);
  CHECK_FALSE(daemon.receive_within(kSoonMs));
  later.h.flags = 0;
  daemon.send(&later, sizeof later, 99, 3);
  CHECK(daemon.receive().bytes.empty());
}

TEST_CASE("shared memory that could shrink, is too small or another's is not used") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  for (int kind = 0; kind < 3; ++kind) {
    daemon.hello();
    daemon.offer(1);
    Shared shared(kind == 2 ? 64 : 256, kind == 1 ? 7 : 1);  // 7: of a later session
    Fd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(loose.get(), 8192) == 0);
    rf_attached attached{};
    attached.pages = 256;
    daemon.send(&attached, sizeof attached, RF_ATTACHED, 1, kind == 0 ? loose.get() : shared.fd());
    CHECK(daemon.receive().bytes.empty());
  }
  CHECK(guest.good("allocate 0 3 0 4096") == 0);
  CHECK(guest.good("munmap 0") == 0);
  CHECK(lines_in(guest.read_errors()) == 1);
}

TEST_CASE("QEMU cannot close or replace what the agent holds") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  for (const char* how : {":range", ":syscall", ":loop", ":dup2"}) {
    guest.good(std::string("close_all ") + how);
    CHECK(guest.good("count") == 3 + 4);  // stdio; uffd, RAM file, socket, wake-up
    rf_bare fence{};
    daemon.send(&fence, sizeof fence, RF_FENCE, 1);
    daemon.expect(RF_FENCED);
  }
  CHECK(guest.good("child") == 0);  // a child may
  for (int fd = 0; fd < 4096; ++fd) {
    std::error_code none;
    if (fd > 2 && fd < 64)
      CHECK(::access(("/proc/" + std::to_string(guest.pid) + "/fd/" + std::to_string(fd)).c_str(),
                     F_OK) != 0);
  }
}

TEST_CASE("with few descriptors allowed the agent still keeps its own") {
  Daemon daemon(socket_path());
  Guest::Options options;
  options.command = {"/bin/sh", "-c", std::string("ulimit -n 40; exec ") + FAKE_QEMU};
  Guest guest(daemon.path(), std::move(options));
  guest.answer_within(kWaitMs);
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  guest.good("close_all :loop");
  CHECK(guest.good("count") == 3 + 4);
}

TEST_CASE("a program that daemonizes before it maps RAM is served, its parent is not") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.inner_pid = static_cast<pid_t>(guest.good("daemonize"));
  guest.good(ram(0, kMiB));
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  CHECK(guest.good("allocate 0 3 0 4096") == 0);
  CHECK(shared.bit(0));
}

TEST_CASE("a program that daemonizes afterwards is served for the RAM that it maps then") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good(ram(0, kMiB));
  daemon.hello();
  guest.inner_pid = static_cast<pid_t>(guest.good("daemonize"));
  CHECK(daemon.receive().bytes.empty());
  guest.good(ram(1, 2 * kMiB));
  CHECK(daemon.hello().blocks == 1);
  const rf_offer offer = daemon.offer(1);
  CHECK(offer.block[0].size == 2 * kMiB);
  Shared shared(512, 1);
  daemon.attach(shared, 1);
  CHECK(guest.good("allocate 1 3 4096 4096") == 0);
  CHECK(shared.bit(1));
}

TEST_CASE("facts from before the attach that cannot end are told") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  guest.good("mlockall");
  guest.good(ram(0, kMiB));
  guest.good("again 0");
  guest.good("pass_ram 0");
  const std::uint32_t hazards =
      (kMlockallReachesAgent ? RF_HAZARD_LOCK : 0) | RF_HAZARD_REMAP | RF_HAZARD_RAM_FD_PASSED;
  CHECK(daemon.hello().hazards == hazards);
  daemon.offer(1);
  Shared shared(257, 1);  // "again" made a block of one page
  daemon.attach(shared, 1);
  CHECK(shared->sticky == hazards);
}

TEST_CASE("a folded page outlives every descriptor that the daemon had") {
  Daemon daemon(socket_path());
  Guest guest(daemon.path(), {});
  const auto at = static_cast<uint64_t>(guest.good(ram(0, kMiB)));
  guest.good("poke 0 4096 7");
  Shared shared(256, 1);
  daemon.hello();
  daemon.offer(1);
  api(daemon.uffd);
  register_all(daemon.uffd, at, kMiB);
  daemon.attach(shared, 1);
  REQUIRE(::fallocate(daemon.ram[0].get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096,
                      4096) == 0);
  daemon.uffd.reset();
  daemon.ram.clear();
  daemon.die();
  guest.good("close_all :loop");
  guest.tell("peek 0 4096");
  CHECK_FALSE(guest.answer_within(300));  // not zeros
  daemon.listen();
  daemon.hello();
  daemon.offer(2);
  uint64_t fault = 0;
  REQUIRE(missing_within(daemon.uffd, kWaitMs, &fault));
  install(daemon.uffd, fault, 7);
  CHECK(guest.answer_within(kWaitMs) == Answer{7, 0});
}
