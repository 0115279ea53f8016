// SPDX-License-Identifier: GPL-2.0-or-later
// A file on a FUSE file system whose server stops answering: what a hostile process would hand
// over.
#include "sys/receptionist.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>

#include "base/clock.hpp"
#include "sys/memory.hpp"
#include "sys/message.hpp"

using namespace ramfold;
using namespace ramfold::sys;

namespace {

// Serves one file until it is asked to flush it; then it is silent.
class SilentFuse {
 public:
  SilentFuse() {
    device_.reset(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    char pattern[] = "/tmp/ramfold-fuse-XXXXXX";
    if (!device_ || ::mkdtemp(pattern) == nullptr) return;
    path_ = pattern;
    const std::string options =
        "fd=" + std::to_string(device_.get()) + ",rootmode=40000,user_id=0,group_id=0";
    mounted_ =
        ::mount("ramfold-test", path_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0;
    if (!mounted_) return;
    server_ = ::fork();
    if (server_ == 0) {
      for (;;) serve();
    }
  }
  ~SilentFuse() {
    end();
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  // What waits for the server is answered by the kernel, with an error.
  void end() {
    if (mounted_) ::umount2(path_.c_str(), MNT_FORCE);
    if (server_ <= 0) return;
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
    server_ = -1;
  }
  bool works() const { return mounted_; }
  Fd open_file() const { return Fd(::open((path_ + "/f").c_str(), O_RDONLY | O_CLOEXEC)); }

 private:
  template <typename Body>
  void reply(const fuse_in_header& in, const Body& body) const {
    struct {
      fuse_out_header header;
      Body body;
    } out{};
    out.header = {.len = sizeof(fuse_out_header) + sizeof(Body), .error = 0, .unique = in.unique};
    out.body = body;
    (void)!::write(device_.get(), &out, out.header.len);
  }

  void serve() const {
    alignas(8) static std::array<char, 256 * 1024> buffer;
    if (::read(device_.get(), buffer.data(), buffer.size()) < 0 && errno != EINTR) ::_exit(0);
    fuse_in_header in;
    std::memcpy(&in, buffer.data(), sizeof in);
    fuse_attr attr{};
    attr.ino = in.nodeid;
    attr.mode = in.nodeid == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
    attr.nlink = 1;
    switch (in.opcode) {
      case FUSE_INIT: {
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.max_write = 4096;
        return reply(in, out);
      }
      case FUSE_LOOKUP: {
        attr.ino = 2;
        attr.mode = S_IFREG | 0644;
        return reply(in, fuse_entry_out{.nodeid = 2,
                                        .generation = 1,
                                        .entry_valid = 60,
                                        .attr_valid = 0,
                                        .entry_valid_nsec = 0,
                                        .attr_valid_nsec = 0,
                                        .attr = attr});
      }
      case FUSE_GETATTR:
        return reply(
            in, fuse_attr_out{.attr_valid = 0, .attr_valid_nsec = 0, .dummy = 0, .attr = attr});
      case FUSE_OPEN:
        return reply(in, fuse_open_out{});
      default:
        return;  // FUSE_FLUSH among them
    }
  }

  Fd device_;
  std::string path_;
  bool mounted_ = false;
  pid_t server_ = -1;
};

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
  Result<Message> receive() { return receptionist.receive(here, buffer, 1000); }
  std::string_view text(const Message& m) const {
    return {reinterpret_cast<const char*>(buffer.data()), m.size};
  }

  Fd here, there;
  std::array<std::byte, 64> buffer{};
  Receptionist receptionist;
};

void wait_for_none(Receptionist& receptionist) {
  for (int i = 0; i < 5000 && receptionist.held() != 0; ++i) ::usleep(1000);
  CHECK(receptionist.held() == 0);
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
      const Fd file = fuse.open_file();
      for (int i = 0; i < 3; ++i)
        (void)send(pair.there, std::as_bytes(std::span("trap")), std::array{file.get()}, 0);
      for (;;) ::pause();
    }
    const std::uint64_t began = monotonic_ns();
    for (int i = 0; i < 3;) {
      const auto message = pair.receive();
      REQUIRE(message);
      if (message->outcome == Received::nothing_yet) {
        ::usleep(1000);
        continue;
      }
      CHECK(message->truncated);
      CHECK(message->fd_count == 0);
      ++i;
    }
    CHECK((monotonic_ns() - began) / 1'000'000 < 3000);
    ::usleep(50'000);
    // The trap works: the children do not even die of SIGKILL. The third message was received
    // without.
    CHECK(pair.receptionist.held() == Receptionist::kHeldOfUserMax);
    fuse.end();
    ::kill(sender, SIGKILL);
    ::waitpid(sender, nullptr, 0);
  }
  wait_for_none(pair.receptionist);
}
