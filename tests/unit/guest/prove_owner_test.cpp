// SPDX-License-Identifier: GPL-2.0-or-later
// Whose memory a userfaultfd drives. This process plays QEMU, a child the stranger.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>

#include "guest/attach_check.hpp"
#include "sys/memory.hpp"
#include "sys/message.hpp"

using namespace ramfold;
using namespace ramfold::guest;
using sys::Fd;

namespace {

constexpr ByteCount kSize{16u << 20};
constexpr std::uint64_t kFeatures = sys::Uffd::kFeaturesNeeded;

Fd make_uffd() {
  const Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  return Fd(device ? ::ioctl(device.get(), _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK) : -1);
}

struct Ram {
  Ram() : file(std::move(*sys::make_memfd("ram", kSize, sys::Sealed::yes))) {
    auto map = sys::Mapping::shared(file, kSize);
    REQUIRE(map);
    mapping = std::move(*map);
    struct stat st{};
    REQUIRE(::fstat(file.get(), &st) == 0);
    block = {{st.st_dev, st.st_ino},
             HostVirt{reinterpret_cast<std::uintptr_t>(mapping.data())},
             kSize,
             ByteCount{0}};
  }
  std::size_t vmas() const {
    std::size_t n = 0;
    (void)procfs.mappings(::getpid(), [&](const sys::MapEntry& entry) {
      n += entry.inode == block.file.inode ? 1 : 0;
      return true;
    });
    return n;
  }
  Status prove(const Fd& uffd) const {
    return prove_owner(sys::Uffd(uffd), ::getpid(), std::array{block}, procfs);
  }

  sys::Procfs procfs;
  Fd file;
  sys::Mapping mapping;
  RamBlock block;
};

}  // namespace

TEST_CASE("a userfaultfd of the process itself is proved, and leaves nothing behind") {
  const Ram ram;
  const Fd uffd = make_uffd();
  if (!uffd) {
    WARN("skipped: no /dev/userfaultfd here");
    return;
  }
  REQUIRE(sys::Uffd(uffd).handshake(kFeatures));
  for (int i = 0; i < 200; ++i) {
    REQUIRE(ram.prove(uffd));
    REQUIRE(ram.vmas() == 1);
  }
  ram.mapping.data()[0] = std::byte{1};  // nothing waits
  SECTION("a block without room for borders cannot be proved") {
    Ram small;
    small.block.size = ByteCount{2 * kPageSize};
    CHECK_FALSE(small.prove(uffd));
  }
}

TEST_CASE("a userfaultfd of another process is refused, though it maps the same") {
  const Ram ram;
  std::array<int, 2> ends{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    const Fd uffd = make_uffd();
    (void)sys::send(sys::BorrowedFd(ends[1]), std::as_bytes(std::span("u")), std::array{uffd.get()},
                    0);
    for (;;) ::pause();
  }
  ::close(ends[1]);
  const Fd socket(ends[0]);
  std::array<std::byte, 8> buffer;
  auto message = sys::receive(socket, buffer, 0);
  if (message && message->fd_count == 1) {
    REQUIRE(sys::Uffd(message->fds[0]).handshake(kFeatures));
    const Status proved = ram.prove(message->fds[0]);
    REQUIRE_FALSE(proved);
    CHECK(proved.error().what == "the userfaultfd is not of the process that sent it");
  } else {
    WARN("skipped: no /dev/userfaultfd here");
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_CASE("the handshake tells done before from other features") {
  const Fd uffd = make_uffd();
  if (!uffd) return;
  const sys::Uffd driver(uffd);
  CHECK(driver.features().value_or(1) == 0);
  SECTION("twice is once") {
    REQUIRE(driver.handshake(kFeatures));
    CHECK(driver.features().value_or(0) == kFeatures);
    CHECK(driver.handshake(kFeatures));
  }
  SECTION("others, set up before") {
    uffdio_api api{.api = UFFD_API, .features = kFeatures | UFFD_FEATURE_EVENT_REMAP, .ioctls = 0};
    REQUIRE(::ioctl(uffd.get(), UFFDIO_API, &api) == 0);
    const Status done = driver.handshake(kFeatures);
    REQUIRE_FALSE(done);
    CHECK(done.error().what ==
          "the userfaultfd was set up with other features than the daemon asks for");
  }
  SECTION("fewer, set up before") {
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    REQUIRE(::ioctl(uffd.get(), UFFDIO_API, &api) == 0);
    CHECK_FALSE(driver.handshake(kFeatures));
  }
  SECTION("one that no kernel has") {
    const Status done = driver.handshake(kFeatures | std::uint64_t{1} << 30);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == EOPNOTSUPP);
  }
}

TEST_CASE("events are read without waiting, though the owner made the descriptor block") {
  const sys::Procfs procfs;
  const auto version = procfs.kernel_version();
  if (!version || !version->at_least(6, 10)) {
    WARN("skipped: no RWF_NOWAIT for userfaultfds before Linux 6.10");
    return;
  }
  const Fd uffd = make_uffd();
  if (!uffd) return;
  REQUIRE(sys::Uffd(uffd).handshake(kFeatures));
  REQUIRE(::fcntl(uffd.get(), F_SETFL, ::fcntl(uffd.get(), F_GETFL) & ~O_NONBLOCK) == 0);
  ::alarm(10);  // a read that waits ends the test
  std::array<uffd_msg, 4> events;
  const auto read = sys::Uffd(uffd).read_events(events);
  ::alarm(0);
  REQUIRE(read);
  CHECK(*read == 0);
}
