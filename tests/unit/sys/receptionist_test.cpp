// SPDX-License-Identifier: GPL-2.0-or-later
// A file on a FUSE file system whose server stops answering: what a hostile process would hand
// over.
#include "sys/receptionist.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "patience.hpp"
#include "silent_fuse.hpp"
#include "sys/memory.hpp"
#include "sys/message.hpp"

using namespace ramfold;
using namespace ramfold::sys;

namespace {

using ramfold::test::Silent;
using ramfold::test::SilentFuse;

}  // namespace

TEST_CASE("what the kernel alone answers for") {
  auto memory = make_memfd("x", ByteCount{4096}, Sealed::yes);
  REQUIRE(memory);
  CHECK(is_kernels_own(*memory));
  const Fd uffd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)));
  if (uffd) CHECK(is_kernels_own(uffd));
  const Fd file(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file) CHECK_FALSE(is_kernels_own(file));
  CHECK_FALSE(is_kernels_own(Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC))));
}

namespace {

struct Pair {
  Pair() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    here.reset(ends[0]);
    there.reset(ends[1]);
  }
  void send(std::string_view text, std::vector<int> fds = {}) const {
    REQUIRE(sys::send(there, std::as_bytes(std::span(text)), fds, 0));
  }
  using Descriptors = Receptionist::Descriptors;
  Result<Message> receive(Descriptors descriptors = Descriptors::wanted) {
    return receptionist.receive(here, buffer, 1000, descriptors);
  }
  std::string_view text(const Message& m) const {
    return {reinterpret_cast<const char*>(buffer.data()), m.size};
  }

  Fd here, there;
  std::array<std::byte, 64> buffer{};
  Receptionist receptionist;
};

void wait_for_none(Receptionist& receptionist) {
  CHECK(test::soon([&] { return receptionist.held() == 0; }));
}

}  // namespace

TEST_CASE("messages with and without descriptors arrive in order") {
  Pair pair;
  const Fd memory = std::move(*make_memfd("x", ByteCount{4096}, Sealed::yes));
  CHECK(pair.receive()->outcome == Received::nothing_yet);
  pair.send("one");
  pair.send("two", {memory.get(), memory.get()});
  pair.send("three");
  auto one = pair.receive();
  CHECK(pair.text(*one) == "one");
  auto two = pair.receive();
  CHECK(pair.text(*two) == "two");
  CHECK_FALSE(two->truncated);
  REQUIRE(two->fd_count == 2);
  CHECK(is_kernels_own(two->fds[1]));
  CHECK((::fcntl(two->fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(pair.text(*pair.receive()) == "three");
  pair.there.reset();
  CHECK(pair.receive()->outcome == Received::closed);
  wait_for_none(pair.receptionist);
}

TEST_CASE("a message with descriptors that are not wanted stays in the queue") {
  Pair pair;
  const Fd memory = std::move(*make_memfd("x", ByteCount{4096}, Sealed::yes));
  pair.send("one");
  pair.send("two", {memory.get()});
  CHECK(pair.text(*pair.receive(Pair::Descriptors::unwanted)) == "one");
  for (int i = 0; i < 2; ++i) {
    const auto left = pair.receive(Pair::Descriptors::unwanted);
    REQUIRE(left);
    CHECK(left->outcome == Received::not_received);
    CHECK(left->fd_count == 0);
  }
  CHECK(pair.receptionist.held() == 0);  // no child was started for it
  const auto two = pair.receive();
  REQUIRE(two);
  CHECK(pair.text(*two) == "two");
  CHECK(two->fd_count == 1);
  wait_for_none(pair.receptionist);
}

TEST_CASE("a message with anything but the kernel's own gives no descriptor") {
  Pair pair;
  const Fd memory = std::move(*make_memfd("x", ByteCount{4096}, Sealed::yes));
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  pair.send("bad", {memory.get(), null.get()});
  const auto bad = pair.receive();
  REQUIRE(bad);
  CHECK(bad->outcome == Received::message);
  CHECK(bad->truncated);
  CHECK(bad->fd_count == 0);
  pair.send("good", {memory.get()});
  CHECK(pair.receive()->fd_count == 1);
  pair.send(std::string(65, 'x'));
  CHECK(pair.receive()->truncated);
  wait_for_none(pair.receptionist);  // there is room for few of them
  pair.send(std::string(65, 'x'), {memory.get()});
  CHECK(pair.receive()->truncated);
  wait_for_none(pair.receptionist);
}

TEST_CASE("a descriptor that cannot be closed holds its receiver, not us") {
  SilentFuse fuse;
  if (!fuse.works()) {
    WARN("skipped: FUSE cannot be mounted here");
    return;
  }
  Pair pair;
  {
    // The sender keeps its descriptor to itself: this process must not hold one either.
    const pid_t sender = ::fork();
    if (sender == 0) {
      const Fd file(fuse.open_file());
      for (int i = 0; i < 3; ++i)
        (void)send(pair.there, std::as_bytes(std::span("trap")), std::array{file.get()}, 0);
      for (;;) ::pause();
    }
    for (int i = 0; i < 3;) {
      const auto message = pair.receive();
      REQUIRE(message);
      if (message->outcome == Received::nothing_yet) {
        ::usleep(1000);
        continue;
      }
      CHECK(message->fd_count == 0);
      INFO("message " << i << ", outcome " << static_cast<int>(message->outcome));
      // The third is not received at all.
      if (i < 2) CHECK(message->truncated);
      if (i == 2) CHECK(message->outcome == Received::not_received);
      ++i;
    }
    // The trap works: each child waits for the answer to its flush, and this thread came so far.
    CHECK(test::soon([&] { return fuse.unanswered() == Receptionist::kHeldOfUserMax; }));
    CHECK(pair.receptionist.held() == Receptionist::kHeldOfUserMax);
    fuse.end();
    ::kill(sender, SIGKILL);
    ::waitpid(sender, nullptr, 0);
  }
  wait_for_none(pair.receptionist);
}

TEST_CASE("a socket with a descriptor in its queue that cannot be dropped is closed by a child") {
  // Nobody has it open any more when it is dropped, and its pages are dirty: even the end of a
  // message that was never received waits for the server.
  SilentFuse fuse(Silent::at_write);
  if (!fuse.works()) {
    WARN("skipped: FUSE cannot be mounted here");
    return;
  }
  constexpr std::size_t kSockets = 6;
  std::array<Pair, kSockets> pairs;
  int ready[2];
  REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
  const pid_t sender = ::fork();
  if (sender == 0) {
    for (Pair& pair : pairs) {
      pair.here.reset();
      const Fd file(fuse.open_file());
      (void)send(pair.there, std::as_bytes(std::span("plain")), {}, 0);
      (void)send(pair.there, std::as_bytes(std::span("trap")), std::array{file.get()}, 0);
    }
    // In the queues alone from here on. The writer stays open, as its close would write too.
    (void)!::write(fuse.open_file(), "dirty", 5);
    (void)!::write(ready[1], "x", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  ::close(ready[0]);
  ::close(ready[1]);
  Receptionist receptionist;
  for (Pair& pair : pairs) {
    pair.there.reset();
    receptionist.close(std::move(pair.here), 1000);
    receptionist.tend();
  }
  // A child waits for the server, and this thread came so far.
  CHECK(test::soon([&] { return fuse.unanswered() != 0; }));
  // One socket each for the children that may be held, the rest waits.
  CHECK(receptionist.held() == Receptionist::kHeldOfUserMax);
  CHECK(receptionist.waiting() == kSockets - Receptionist::kHeldOfUserMax);
  // Another user's sockets are closed meanwhile.
  Pair other;
  const Fd memory = std::move(*make_memfd("x", ByteCount{4096}, Sealed::yes));
  other.send("unread", {memory.get()});
  receptionist.close(std::move(other.here), 1001);
  CHECK(receptionist.waiting() == kSockets - Receptionist::kHeldOfUserMax);
  fuse.end();
  ::kill(sender, SIGKILL);
  ::waitpid(sender, nullptr, 0);
  CHECK(test::soon([&] {
    receptionist.tend();
    return receptionist.held() + receptionist.waiting() == 0;
  }));
}
