// SPDX-License-Identifier: GPL-2.0-or-later
// A fact about the kernel that the agent relies on when a daemon is killed: a socket of a process
// closes only after the system calls of all its threads have ended. (In the kernel: a killed thread
// runs do_exit() on its way back to user mode, and the last thread that does so closes the
// descriptor table that all threads share.)
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <thread>

#include "patience.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kBytes =
    512u << 20;  // a punch of this takes tens of milliseconds, and no signal ends it
constexpr int kKills = 5;

blkcnt_t blocks(const sys::Fd& file) {
  struct stat s{};
  REQUIRE(::fstat(file.get(), &s) == 0);
  return s.st_blocks;
}

// One thread is in a long call, the others sleep.
[[noreturn]] void punch_until_killed(int file) {
  std::thread([] { ::pause(); }).detach();
  std::thread([file] {
    (void)::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      static_cast<off_t>(kBytes));
    ::pause();
  }).detach();
  for (;;) ::pause();
}

}  // namespace

TEST_CASE("a killed process hangs up after the system calls of all its threads") {
  auto file = sys::make_memfd("punched", ByteCount{kBytes}, sys::Sealed::yes);
  REQUIRE(file.has_value());
  int in_the_middle = 0;
  for (int i = 0; i < kKills; ++i) {
    REQUIRE(::fallocate(file->get(), 0, 0, static_cast<off_t>(kBytes)) == 0);
    const blkcnt_t all = blocks(*file);
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    const sys::Fd ours(ends[0]);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(ends[0]);
      punch_until_killed(file->get());
    }
    ::close(ends[1]);
    while (blocks(*file) == all) {
    }
    ::kill(child, SIGKILL);
    in_the_middle += blocks(*file) != 0;
    pollfd wait{ours.get(), POLLIN, 0};
    REQUIRE(::poll(&wait, 1, ramfold::test::patient(30'000)) == 1);
    char byte;
    REQUIRE(::recv(ours.get(), &byte, 1, 0) == 0);
    CHECK(blocks(*file) == 0);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
  }
  // Or the kills came too late to show anything.
  CHECK(in_the_middle > 0);
}
