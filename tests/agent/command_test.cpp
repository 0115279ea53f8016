// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's commands, through its own port, to the real agent and real memory: what they do, and
// when they must do nothing.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <set>
#include <vector>

#include "attached.hpp"
#include "daemon/agents/command_channel.hpp"
#include "guest/agent_messages.hpp"

using namespace agent_test;
using ramfold::PageCount;
using ramfold::PageIndex;
using ramfold::PageRun;
using ramfold::daemon::CommandChannel;
using ramfold::guest::AgentAct;
using ramfold::guest::AgentAnswer;

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPresent = 1ull << 63;
constexpr uint64_t kGuarded = 1ull << 57;

PageRun run_of(uint64_t first, uint64_t count) { return {PageIndex{first}, PageCount{count}}; }

// An attached guest with two blocks, each page of which has been written, and a port to its agent.
struct Rig {
  Rig()
      : daemon(temporary_directory() + "/agent.sock"), shared(kPages, 1), guest(daemon.path(), {}) {
    at[0] = static_cast<uint64_t>(guest.good("ram 0 " + std::to_string(kFirst * kPage)));
    at[1] = static_cast<uint64_t>(guest.good("ram 1 " + std::to_string((kPages - kFirst) * kPage)));
    daemon.attached_from_scratch(shared, 1);
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    REQUIRE(::ioctl(daemon.uffd.get(), UFFDIO_API, &api) == 0);
    for (const uint64_t p : {0, 1, 2, 15, 16, 1023, 1024, 1030}) touch(p);
  }
  // By the guest: its page table has an entry, and the RAM file a page.
  void touch(uint64_t page) {
    const uint64_t block = page < kFirst ? 0 : 1;
    const uint64_t offset = (page - block * kFirst) * kPage;
    guest.good("poke " + std::to_string(block) + " " + std::to_string(offset) + " " +
               std::to_string(page % 100 + 1));
  }
  long peek(uint64_t page) {
    const uint64_t block = page < kFirst ? 0 : 1;
    return guest.good("peek " + std::to_string(block) + " " +
                      std::to_string((page - block * kFirst) * kPage));
  }
  uint64_t address(uint64_t page) const {
    return page < kFirst ? at[0] + page * kPage : at[1] + (page - kFirst) * kPage;
  }
  uint64_t entry(uint64_t page) const {
    const Fd pagemap(
        ::open(("/proc/" + std::to_string(guest.pid) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
    uint64_t word = 0;
    REQUIRE(::pread(pagemap.get(), &word, sizeof word,
                    static_cast<off_t>(address(page) / kPage * sizeof word)) == sizeof word);
    return word;
  }
  bool present(uint64_t page) const { return (entry(page) & kPresent) != 0; }
  // VmFlags of the mapping that begins here.
  std::string flags_at(uint64_t begin) const {
    std::ifstream smaps("/proc/" + std::to_string(guest.pid) + "/smaps");
    char wanted[32];
    std::snprintf(wanted, sizeof wanted, "%lx-", begin);
    std::string line;
    while (std::getline(smaps, line) && line.rfind(wanted, 0) != 0) {
    }
    while (std::getline(smaps, line) && line.rfind("VmFlags", 0) != 0) {
    }
    CHECK(line.rfind("VmFlags", 0) == 0);
    return line;
  }

  void fence(uint32_t generation) {
    rf_bare message{};
    daemon.send(&message, sizeof message, RF_FENCE, generation);
    CHECK(daemon.expect(RF_FENCED).as<rf_header>().generation == generation);
    port = std::make_unique<CommandChannel>();
    port->open(ramfold::sys::BorrowedFd(daemon.socket()), generation);
  }
  // As the daemon does with what it hears.
  bool hear(int ms) {
    const auto packet = daemon.receive_within(ms);
    if (!packet) return false;
    const auto message = ramfold::guest::parse(std::as_bytes(std::span(packet->bytes)), 0);
    REQUIRE(message);
    if (const auto* answer = std::get_if<ramfold::guest::Answered>(&*message)) {
      last = answer->wire;
      port->answered(answer->wire);
    }
    return true;
  }
  AgentAnswer run(std::vector<PageRun> runs) {
    const auto token = port->send(AgentAct::forget, runs);
    REQUIRE(token);
    for (;;) {
      if (const auto answer = port->take(*token, {})) return *answer;
      REQUIRE(hear(kWaitMs));
    }
  }
  // A command that the port would not send.
  void send_raw(rf_command command, uint32_t generation) {
    daemon.send(&command, sizeof command, RF_COMMAND, generation);
  }
  rf_answer answer_to(const rf_command& command) {
    send_raw(command, 1);
    return daemon.expect(RF_ANSWER).as<rf_answer>();
  }

  static constexpr uint64_t kFirst = 1024;
  static constexpr uint64_t kPages = 2048;
  Daemon daemon;
  Shared shared;
  Guest guest;
  uint64_t at[2];
  std::unique_ptr<CommandChannel> port;
  rf_answer last{};
};

rf_command forget(uint64_t first, uint64_t count) {
  rf_command command{};
  command.act = RF_ACT_FORGET;
  command.runs = 1;
  command.run[0] = {first * kPage, count * kPage};
  return command;
}

void guard(const Rig& rig, uint64_t page, bool on) {
  uffdio_writeprotect w{};
  w.range = {rig.address(page), kPage};
  w.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  REQUIRE(::ioctl(rig.daemon.uffd.get(), UFFDIO_WRITEPROTECT, &w) == 0);
}

}  // namespace

TEST_CASE("forget: the page stays in the RAM file, its guard too, and a touch shows") {
  Rig rig;
  rig.fence(1);
  register_all(rig.daemon.uffd, rig.at[0], Rig::kFirst * kPage);
  guard(rig, 1, true);
  REQUIRE(rig.present(0));
  REQUIRE((rig.entry(1) & kGuarded) != 0);
  CHECK(rig.run({run_of(0, 2), run_of(1023, 1), run_of(1024, 7)}) == AgentAnswer::done);
  CHECK(rig.last.done == 3);
  for (const uint64_t page : {0, 1, 1023, 1024, 1030}) {
    INFO("page " << page);
    CHECK_FALSE(rig.present(page));
    // In the file as it was: nothing was lost.
    const Fd& file = rig.daemon.ram[page < Rig::kFirst ? 0 : 1];
    char byte = 0;
    const auto offset = static_cast<off_t>((page % Rig::kFirst) * kPage);
    CHECK(::lseek(file.get(), offset, SEEK_DATA) == offset);
    REQUIRE(::pread(file.get(), &byte, 1, offset) == 1);
    CHECK(byte == static_cast<char>(page % 100 + 1));
  }
  for (const uint64_t page : {2, 15, 16}) CHECK(rig.present(page));
  // A read brings it back without an event; the guard holds through both.
  CHECK((rig.entry(1) & kGuarded) != 0);
  CHECK(rig.peek(0) == 1);
  CHECK(rig.peek(1) == 2);
  CHECK(rig.peek(1024) == 25);
  CHECK(rig.present(0));
  CHECK(rig.present(1));
  CHECK(rig.present(1024));
  CHECK_FALSE(rig.present(1023));
  CHECK((rig.entry(1) & kGuarded) != 0);
  rig.guest.tell("poke 0 4096 77");
  uint64_t fault = 0;  // of a write that the guard stopped
  REQUIRE(missing_within(rig.daemon.uffd, kWaitMs, &fault));
  CHECK((fault & ~(kPage - 1)) == rig.address(1));
  guard(rig, 1, false);
  CHECK(rig.guest.answer_within(kWaitMs) == Answer{77, 0});
}

TEST_CASE("runs that are not RAM as offered are refused, whole") {
  Rig rig;
  rig.fence(1);
  const auto refused = [&](rf_command command, int error) {
    const rf_answer answer = rig.answer_to(command);
    CHECK(answer.status == RF_ANSWER_REFUSED);
    CHECK(answer.error == static_cast<uint32_t>(error));
    CHECK(answer.done == 0);
  };
  refused(forget(Rig::kPages, 1), EINVAL);      // behind the end
  refused(forget(Rig::kPages - 1, 2), EINVAL);  // beyond the end
  refused(forget(Rig::kFirst - 1, 2), EINVAL);  // two blocks
  refused(forget(0, 0), EINVAL);
  refused(forget(0, Rig::kFirst + 1), EINVAL);    // more than 4 MiB
  refused(forget(~0ull / kPage, 2), EINVAL);      // wraps
  refused(forget(0, (~0ull >> 12) + 1), EINVAL);  // as a length
  rf_command command = forget(0, 1);
  command.run[0].offset = 1;
  refused(command, EINVAL);
  command = forget(0, 1);
  command.run[0].length = 100;
  refused(command, EINVAL);
  command = forget(0, 1);
  command.runs = RF_RUNS_MAX + 1;
  refused(command, EINVAL);
  command = forget(0, 1);
  command.act = 99;
  refused(command, ENOSYS);
  command = forget(0, 1);  // good, beside a bad one
  command.runs = 2;
  command.run[1] = {Rig::kPages * kPage, kPage};
  refused(command, EINVAL);
  command = forget(0, Rig::kFirst);  // 4 MiB, and a page more in all
  command.runs = 2;
  command.run[1] = {Rig::kFirst * kPage, kPage};
  refused(command, EINVAL);
  for (const uint64_t p : {0, 1, 2, 15, 16, 1023, 1024, 1030}) CHECK(rig.present(p));
  CHECK(rig.run({run_of(0, Rig::kFirst)}) == AgentAnswer::done);  // 4 MiB
  CHECK_FALSE(rig.present(0));
  CHECK(rig.run({}) == AgentAnswer::done);  // are you there
}

TEST_CASE("a command without a fence, or of another session, does nothing") {
  Rig rig;
  const rf_answer answer = rig.answer_to(forget(0, 1));
  CHECK(answer.status == RF_ANSWER_REFUSED);
  CHECK(answer.error == EPERM);
  rig.fence(1);
  SECTION("D10: of an older one") { rig.send_raw(forget(0, 1), 0); }
  SECTION("of one that is not here yet") { rig.send_raw(forget(0, 1), 2); }
  SECTION("of a daemon whose VM is another's now") {
    rig.shared->session = 0;
    rig.send_raw(forget(0, 1), 1);
  }
  CHECK_FALSE(rig.daemon.receive_within(kSoonMs));
  CHECK(rig.present(0));
}

TEST_CASE("the pool is mapped over RAM, and QEMU's calls lose nothing of it") {
  Rig rig;
  rig.fence(1);
  const Fd pool(::memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::vector<char> nines(4 * kPage, 9);
  REQUIRE(::write(pool.get(), nines.data(), nines.size()) == static_cast<ssize_t>(nines.size()));
  REQUIRE(::fchmod(pool.get(), 0444) == 0);
  REQUIRE(::fcntl(pool.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  const auto hand_over = [&] {
    const Fd file(
        ::open(("/proc/self/fd/" + std::to_string(pool.get())).c_str(), O_RDONLY | O_CLOEXEC));
    rf_bare message{};
    rig.daemon.send(&message, sizeof message, RF_POOL, 1, file.get());
  };
  rf_map_command map{};
  map.c.act = RF_ACT_MAP;
  map.c.runs = 1;
  map.c.run[0] = {0, 3 * kPage};
  map.pool[0] = kPage;
  const auto ask = [&] {
    rig.daemon.send(&map, sizeof map, RF_COMMAND, 1);
    return rig.daemon.expect(RF_ANSWER).as<rf_answer>();
  };
  hand_over();
  if (::geteuid() != 0) return;
  CHECK(ask().error == EBADF);  // root's QEMU takes no pool
  CHECK(rig.peek(0) == 1);
  rig.guest.good("uid 65534");
  CHECK(ask().error == EBADF);
  hand_over();
  CHECK(rig.answer_to(map.c).error == EINVAL);  // too short to say where in the pool
  REQUIRE(ask().status == RF_ANSWER_DONE);
  CHECK(rig.guest.good("advise 0 12 0 " + std::to_string(3 * kPage)) == 0);  // MADV_MERGEABLE
  CHECK(rig.flags_at(rig.address(0)).find(" mg") == std::string::npos);
  for (const uint64_t p : {0, 1, 2}) CHECK(rig.peek(p) == 9);
  CHECK(::lseek(rig.daemon.ram[0].get(), 0, SEEK_DATA) != 0);

  rig.touch(1);
  CHECK(rig.guest.good("advise 0 4 0 " + std::to_string(3 * kPage)) == 0);  // DONTNEED
  CHECK(rig.peek(1) == 2);
  CHECK(rig.peek(0) == 9);
  CHECK(rig.guest.good("allocate 0 3 0 " + std::to_string(kPage)) == 0);  // a discard
  CHECK(rig.peek(0) == 0);
  CHECK(rig.guest.good("advise 0 9 " + std::to_string(2 * kPage) + " " + std::to_string(kPage)) ==
        0);  // MADV_REMOVE
  CHECK(rig.peek(2) == 0);
  CHECK(ask().error == EBUSY);  // page 1 still maps it
  map.c.act = RF_ACT_RESTORE;
  REQUIRE(ask().status == RF_ANSWER_DONE);
  CHECK(rig.peek(0) == 0);
  CHECK(rig.peek(1) == 2);
  char byte = 0;
  REQUIRE(::pread(rig.daemon.ram[0].get(), &byte, 1, kPage) == 1);
  CHECK(byte == 2);
  map.c.act = RF_ACT_MAP;
  CHECK(ask().error == EAGAIN);  // the daemon has not cleared the discards' bits
  CHECK(rig.peek(1) == 2);
}

TEST_CASE("an attachment that follows has a fence of its own") {
  Rig rig;
  rig.fence(1);
  Shared second(Rig::kPages, 1);
  rf_bare detached{};
  rig.daemon.send(&detached, sizeof detached, RF_DETACHED, 1);
  rig.send_raw(forget(0, 1), 1);  // nobody's VM: dropped
  rig.daemon.welcome(RF_ACTION_RESUME, 1, second.fd());
  rig.daemon.expect(RF_READY);
  CHECK(rig.answer_to(forget(0, 1)).status == RF_ANSWER_REFUSED);
  CHECK(rig.present(0));
  rig.fence(1);
  CHECK(rig.run({run_of(0, 1)}) == AgentAnswer::done);
  CHECK_FALSE(rig.present(0));
}

TEST_CASE("once RAM may be unmapped unasked no command touches it") {
  Rig rig;
  rig.fence(1);
  rig.guest.tell("mlock 0");
  rf_unfolded message{};
  message.token = rig.daemon.expect(RF_UNFOLD).as<rf_unfold>().token;
  message.ok = 1;
  rig.daemon.send(&message, sizeof message, RF_UNFOLDED, 1);
  CHECK(rig.guest.answer_within(kWaitMs)->result == 0);
  CHECK(rig.run({run_of(1024, 1)}) == AgentAnswer::refused);
  CHECK(rig.last.error == EBUSY);
  CHECK(rig.present(1024));
  CHECK(rig.guest.good("munmap 1") == 0);
  CHECK(rig.run({run_of(1024, 1)}) == AgentAnswer::refused);
}

TEST_CASE("a thousand commands that a dead daemon left do nothing (D10)") {
  constexpr uint32_t kQueued = 1000;
  Rig rig;
  rig.fence(1);
  const int room = 64 << 20;
  REQUIRE(::setsockopt(rig.daemon.socket(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0);
  std::vector<uint64_t> pages(kQueued);
  std::iota(pages.begin(), pages.end(), 0);
  for (const uint64_t page : pages) rig.touch(page);
  const auto kept = [&] {
    return static_cast<uint32_t>(
        std::count_if(pages.begin(), pages.end(), [&](uint64_t p) { return rig.present(p); }));
  };
  REQUIRE(::kill(rig.guest.pid, SIGSTOP) == 0);
  REQUIRE(::waitpid(rig.guest.pid, nullptr, WUNTRACED) == rig.guest.pid);
  const auto queue = [&](uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      rf_command command = forget(i, 1);
      command.token = i;
      rig.send_raw(command, 1);
    }
  };
  SECTION("of a living daemon they are carried out") {
    constexpr uint32_t kMany = 100;  // the answers find room without being read
    queue(kMany);
    REQUIRE(::kill(rig.guest.pid, SIGCONT) == 0);
    for (uint32_t i = 0; i < kMany; ++i) {
      const auto answer = rig.daemon.expect(RF_ANSWER).as<rf_answer>();
      CHECK(answer.token == i);
      CHECK(answer.status == RF_ANSWER_DONE);
    }
    CHECK(kept() == kQueued - kMany);
  }
  SECTION("it dies and nobody has come: what it asked for is not wanted any more") {
    queue(kQueued);
    rig.daemon.die();
    REQUIRE(::kill(rig.guest.pid, SIGCONT) == 0);
    rig.daemon.listen();
    rig.daemon.hello();
    CHECK(kept() == kQueued);
  }
  SECTION("it cannot even close its socket, and a successor is there") {
    queue(kQueued);
    const Fd left(::dup(rig.daemon.socket()));
    rig.daemon.die();
    rig.daemon.listen();
    rig.shared->session = 0;
    REQUIRE(::kill(rig.guest.pid, SIGCONT) == 0);
    rig.daemon.hello();
    rig.shared->session = 2;
    rig.daemon.welcome(RF_ACTION_RESUME, 2, rig.shared.fd());
    rig.daemon.expect(RF_READY);
    rig.fence(2);
    CHECK(kept() == kQueued);
    CHECK(rig.run({run_of(3, 1)}) == AgentAnswer::done);
    CHECK(kept() == kQueued - 1);
  }
}
