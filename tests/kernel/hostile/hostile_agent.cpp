// SPDX-License-Identifier: GPL-2.0-or-later
// An agent that its owner has turned against the daemon: speaks the protocol by hand and does one
// thing that no agent does. hostile_agent SOCKET WHAT; prints what came of it, a line each, then
// holds what it has until it is killed. Threads: one, and those that an attack needs.
#include <fcntl.h>
#include <grp.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "agent/wire.h"
#include "kernel/by_hand.hpp"
#include "silent_fuse.hpp"

using namespace ramfold::test;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 1024;
constexpr int kAnswerMs = 20'000;

const char* socket_path = nullptr;

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

[[noreturn]] void give_up(const char* what) {
  say(std::string("cannot: ") + what + ": " + std::strerror(errno));
  ::_exit(3);
}

int must(int result, const char* what) {
  if (result < 0) give_up(what);
  return result;
}

struct Answer : HeardByHand {
  std::string text() const {
    if (type == 0) return "closed";
    if (type != RF_REFUSED) return "answer " + std::to_string(type);
    return std::string("refused: ") + (bytes.data() + sizeof(rf_header));
  }
};

class Connection {
 public:
  Connection() : fd_(must(connect_by_hand(socket_path), "connect")) {}

  template <typename Message>
  bool send(std::uint16_t type, const Message& message, const std::vector<int>& fds = {},
            int flags = 0) const {
    return send_by_hand(fd_, type, generation_, message, fds, flags);
  }

  Answer receive() {
    Answer answer{receive_by_hand(fd_, kAnswerMs)};
    if (!answer.in_time) say("no answer");
    if (answer.type != 0) generation_ = answer.generation;
    return answer;
  }

  // Waits until the daemon has received all that was sent.
  void wait_received() const {
    for (int unread = 1; unread != 0;) {
      must(::ioctl(fd_, SIOCOUTQ, &unread), "SIOCOUTQ");
      if (unread != 0) ::usleep(200);
    }
  }

  bool say_hello(const std::vector<int>& fds = {}) const {
    rf_hello hello{};
    hello.version_min = RF_VERSION_MIN;
    hello.version_max = RF_VERSION_MAX;
    hello.blocks = 1;
    hello.capabilities =
        RF_CAP_DISCARD | RF_CAP_BUFFERED | RF_CAP_CONSUMERS | RF_CAP_FILLS | RF_CAP_COMMANDS;
    return send(RF_HELLO, hello, fds);
  }

 private:
  int fd_;
  std::uint32_t generation_ = 0;
};

struct Ram {
  Ram() : fd(must(::memfd_create("hostile-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd")) {
    must(::ftruncate(fd, kPages * kPage), "ftruncate");
    must(::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "seal");
    at = static_cast<char*>(
        ::mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    if (at == MAP_FAILED) give_up("mmap");
    (void)::madvise(at, kPages * kPage, MADV_NOHUGEPAGE);
    // Equal in pairs, so that there is something to fold.
    for (std::size_t p = 0; p < kPages; ++p)
      std::memset(at + p * kPage, static_cast<int>(p / 2 % 251 + 1), kPage);
  }
  rf_offer offer() const {
    struct stat st{};
    must(::fstat(fd, &st), "fstat");
    rf_offer offer{};
    offer.blocks = 1;
    offer.block[0] = {reinterpret_cast<std::uintptr_t>(at), kPages * kPage, 0, st.st_dev,
                      st.st_ino};
    return offer;
  }
  // By reading it all, as a guest would.
  void check() const {
    for (std::size_t p = 0; p < kPages; ++p) {
      for (std::size_t i = 0; i < kPage; ++i) {
        const volatile char* const byte = at + p * kPage + i;
        if (*byte == static_cast<char>(p / 2 % 251 + 1)) continue;
        return say("BAD byte in page " + std::to_string(p));
      }
    }
    say("every byte is right");
  }
  int fd;
  char* at;
};

int make_uffd(int device) {
  return must(::ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK), "userfaultfd");
}

// Up to the daemon's question for an offer; its /dev/userfaultfd.
int asked_for_offer(Connection& c) {
  c.say_hello();
  const Answer welcome = c.receive();
  if (welcome.type != RF_WELCOME || welcome.fd < 0) {
    say("no welcome: " + welcome.text());
    ::_exit(4);
  }
  return welcome.fd;
}

void attach(Connection& c, const Ram& ram, int uffd) {
  c.send(RF_OFFER, ram.offer(), {uffd, ram.fd});
  const Answer answer = c.receive();
  if (answer.type != RF_ATTACHED) {
    say(answer.text());
    ::_exit(4);
  }
  c.send(RF_READY, rf_ready{});
  say("attached");
}

[[noreturn]] void stay() {
  say("done");
  for (;;) ::pause();
}

// The other user that it runs as, where what it does shuts the whole user out.
constexpr uid_t kOther = 65534;
constexpr uid_t kAnother = 65533;

// It keeps root's group: the rig's agent_group, without which nobody would hear it.
void become_other(uid_t id = kOther) {
  const gid_t agents = 0;
  must(::setgroups(1, &agents), "setgroups");
  must(::setresgid(id, id, id), "setgid");
  must(::setresuid(id, id, id), "setuid");
}

// In a process of its own, which stays: its descriptors must live.
void apart(const std::function<void()>& f) {
  std::array<int, 2> ends{};
  must(::pipe(ends.data()), "pipe");
  if (must(::fork(), "fork") == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(ends[0]);
    f();
    ::close(ends[1]);
    for (;;) ::pause();
  }
  ::close(ends[1]);
  char byte = 0;
  (void)!::read(ends[0], &byte, 1);
  ::close(ends[0]);
}

// ---- the attacks ----

// Descriptors whose close asks a server that does not answer, wherever one may be sent.
void fuse() {
  static SilentFuse silent;
  if (!silent.works()) give_up("mount FUSE");
  const auto offered =
      [](const std::function<std::vector<int>(int uffd, int ram, int trap)>& choose) {
        apart([&] {
          const int trap = silent.open_file();
          become_other();
          Connection c;
          const int uffd = make_uffd(asked_for_offer(c));
          const Ram ram;
          c.send(RF_OFFER, ram.offer(), choose(uffd, ram.fd, trap));
          say(c.receive().text());
        });
      };
  apart([] {
    const int trap = silent.open_file();
    become_other();
    Connection c;
    c.say_hello({trap});
    say(c.receive().text());
  });
  offered([](int uffd, int, int trap) { return std::vector{uffd, trap}; });
  offered([](int, int ram, int trap) { return std::vector{trap, ram}; });
  offered([](int uffd, int ram, int trap) { return std::vector{uffd, ram, trap}; });
  offered([](int uffd, int ram, int trap) {
    std::vector<int> many(200, trap);
    many[0] = uffd;
    many[1] = ram;
    return many;
  });
  stay();
}

// The same, where nobody but the queue has them, and even the kernel's dropping them waits.
void fuse_dirty() {
  static SilentFuse silent(Silent::at_write);
  if (!silent.works()) give_up("mount FUSE");
  for (int i = 0; i < 8; ++i) {
    apart([] {
      const int trap = silent.open_file();
      become_other();
      const Connection c;  // open until the process ends
      c.say_hello({trap});
      c.say_hello({trap});
      ::close(trap);
    });
  }
  // From here on they wait; the writer stays open.
  say(::write(silent.open_file(), "dirty", 5) == 5 ? "dirty" : "not dirty");
  stay();
}

void foreign_uffd() {
  Connection c;
  const int device = asked_for_offer(c);
  const Ram ram;
  // A child maps all that its parent does, and its userfaultfd registers there as well.
  std::array<int, 2> ends{};
  must(::pipe(ends.data()), "pipe");
  const pid_t child = must(::fork(), "fork");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int uffd = make_uffd(device);
    (void)!::write(ends[1], &uffd, sizeof uffd);
    for (;;) ::pause();
  }
  int number = -1;
  (void)!::read(ends[0], &number, sizeof number);
  const int pidfd = must(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)), "pidfd_open");
  const int uffd =
      must(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, number, 0)), "pidfd_getfd");
  c.send(RF_OFFER, ram.offer(), {uffd, ram.fd});
  say(c.receive().text());
  stay();
}

// Its own userfaultfd, set up to send events that nobody awaits.
void features() {
  Connection c;
  const int uffd = make_uffd(asked_for_offer(c));
  uffdio_api api{.api = UFFD_API,
                 .features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP,
                 .ioctls = 0};
  must(::ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API");
  const Ram ram;
  c.send(RF_OFFER, ram.offer(), {uffd, ram.fd});
  say(c.receive().text());
  stay();
}

// Makes the shared userfaultfd block its readers, and takes the events itself.
void blocking() {
  Connection c;
  static int uffd = make_uffd(asked_for_offer(c));
  static const Ram ram;
  attach(c, ram, uffd);
  for (int i = 0; i < 2; ++i) {
    std::thread([] {
      for (;;) {
        ::fcntl(uffd, F_SETFL, 0);
        uffd_msg events[4];
        pollfd p{uffd, POLLIN, 0};
        if (::poll(&p, 1, 1) == 1) {
          ::fcntl(uffd, F_SETFL, O_NONBLOCK);
          (void)!::read(uffd, events, sizeof events);
        }
      }
    }).detach();
  }
  // What is folded is touched again, by threads that may wait for ever.
  for (std::size_t i = 0; i < 16; ++i) {
    std::thread([i] {
      for (std::size_t p = i;; p = (p + 16) % kPages) {
        ::usleep(5000);
        static_cast<volatile char*>(ram.at)[p * kPage] = static_cast<char>(p);
      }
    }).detach();
  }
  stay();
}

void flood() {
  Connection c;
  const int uffd = make_uffd(asked_for_offer(c));
  const Ram ram;
  attach(c, ram, uffd);
  rf_hold changed{};
  rf_unfold unfold{};
  for (std::uint32_t i = 0; i < 100'000; ++i) {
    if (!c.send(RF_CHANGED, changed)) break;
    unfold.token = i;
    // Its answers are not read: the daemon must not wait for that either.
    if (i % 100 == 0 && !c.send(RF_UNFOLD, unfold)) break;
  }
  stay();
}

char* trap_page = nullptr;

// A page of a file whose server is silent, as root: another user may hold others up with it then.
// No descriptor of it stays.
char* mapped_trap(Silent when) {
  static SilentFuse silent(when);
  if (!silent.works()) give_up("mount FUSE");
  const int file = must(silent.open_file(), "open");
  void* const at = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) give_up("mmap FUSE");
  ::close(file);  // before there is anything to write
  if (when == Silent::at_write) *static_cast<char*>(at) = 1;
  return static_cast<char*>(at);
}

// Holds its own mmap_lock for writing: a mapping of a file with dirty pages is mapped over, and the
// file's server does not take them.
void prepare_memory_map() { trap_page = mapped_trap(Silent::at_write); }

void hold_memory_map(const Ram* ram = nullptr) {
  char* const at = trap_page;
  std::thread([at, ram] {
    (void)::mmap(at, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    say("the memory map is free again");
    if (ram != nullptr) ram->check();
  }).detach();
  ::usleep(300'000);
}

// Userfaultfds of a process that holds its mmap_lock, so that their last close waits. Another
// process offers one after the other, each with RAM that is mapped elsewhere, until nothing of its
// user is received any more.
void closing() {
  constexpr std::size_t kUserfaultfds = 64;
  prepare_memory_map();
  become_other();
  std::vector<int> userfaultfds;
  {
    Connection c;
    const int device = asked_for_offer(c);
    while (userfaultfds.size() < kUserfaultfds) userfaultfds.push_back(make_uffd(device));
    ::close(device);
  }
  std::array<int, 2> ends{};
  must(::pipe(ends.data()), "pipe");
  if (must(::fork(), "fork") != 0) {
    for (const int uffd : userfaultfds) ::close(uffd);
    // Twice: a page that only the second one touched would wait for the lock, too.
    for (int i = 0; i < 2; ++i) {
      if (i == 1) hold_memory_map();
      (void)!::write(ends[1], "", 1);
      ::usleep(1000);
    }
    for (;;) ::pause();
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char byte = 0;
  for (int i = 0; i < 2; ++i) (void)!::read(ends[0], &byte, 1);
  const Ram ram;
  rf_offer offer = ram.offer();
  offer.block[0].address -= std::uint64_t{1} << 30;
  // It has so many mappings that the daemon looks at them for a while. Meanwhile all others close
  // the userfaultfd, so that the daemon's close is the last.
  constexpr std::size_t kMappings = 20'000;
  char* const many = static_cast<char*>(
      ::mmap(nullptr, 2 * kMappings * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (many == MAP_FAILED) give_up("mmap");
  for (std::size_t i = 0; i < kMappings; ++i)
    must(::mprotect(many + 2 * i * kPage, kPage, PROT_READ), "mprotect");
  for (const int uffd : userfaultfds) {
    Connection c;
    ::close(asked_for_offer(c));
    c.send(RF_OFFER, offer, {uffd, ram.fd});
    ::close(uffd);
    const std::string answer = c.receive().text();
    say(answer);
    if (answer.find("not received any more") != std::string::npos) break;
  }
  // The same with a message that never has descriptors.
  {
    Connection c;
    c.say_hello({ends[0]});
    say(c.receive().text());
  }
  stay();
}

// Holds the lock of its RAM file: a write to it whose bytes come from a page that never comes.
void prepare_ram_file() { trap_page = mapped_trap(Silent::at_read); }

void hold_ram_file(const Ram& ram) {
  std::thread([&ram] {
    (void)!::pwrite(ram.fd, trap_page, 64, 0);
    say("the RAM file is free again");
    ram.check();
  }).detach();
  ::usleep(300'000);
}

// Asks again and again to be looked at, as agents before this version do.
void ask_for_looks(const Connection& c) {
  for (int i = 0; i < 400; ++i) {
    if (!c.send(i % 2 == 0 ? RF_CHANGED : RF_HOLD, rf_hold{})) give_up("ask for a look");
    c.wait_received();
  }
}

// Half of it has left, so that the threads of the daemon that do that are about.
void wait_folded(const Ram& ram) {
  for (int i = 0; i < 200; ++i) {
    struct stat st{};
    must(::fstat(ram.fd, &st), "fstat");
    if (static_cast<std::size_t>(st.st_blocks) * 512 < kPages * kPage / 2) return say("folded");
    ::usleep(100'000);
  }
  give_up("be folded");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  socket_path = argv[1];
  const std::string what = argv[2];
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (what == "fuse") fuse();
  if (what == "closing") closing();
  if (what == "fuse-dirty") fuse_dirty();
  if (what == "foreign-uffd") foreign_uffd();
  if (what == "features") features();
  if (what == "blocking") blocking();
  if (what == "flood") flood();
  if (what == "map-at-hello") {
    prepare_memory_map();
    become_other();
    hold_memory_map();
    Connection c;
    c.say_hello();
    say(c.receive().text());
    stay();
  }
  if (what == "map-attached" || what == "file-attached" || what == "asking") {
    const bool map = what != "file-attached";
    map ? prepare_memory_map() : prepare_ram_file();
    // Each a user of its own: VMs of the user of who cannot be looked at are not folded.
    become_other(map ? kOther : kAnother);
    Connection c;
    const int device = asked_for_offer(c);
    static const Ram ram;
    attach(c, ram, make_uffd(device));
    ::close(device);
    if (map) {
      wait_folded(ram);
      hold_memory_map(&ram);
    } else {
      hold_ram_file(ram);
    }
    if (what == "asking") ask_for_looks(c);
    stay();
  }
  if (what == "fenced") {
    Connection c;
    const int device = asked_for_offer(c);
    static const Ram ram;
    attach(c, ram, make_uffd(device));
    say(c.receive().type == RF_FENCE ? "fence" : "no fence");
    // Answers that were not asked for, before and after; a fence answered again.
    rf_answer answer{};
    answer.token = 1;
    for (int i = 0; i < 3; ++i) {
      c.send(RF_ANSWER, answer);
      c.send(RF_FENCED, rf_bare{});
      answer.status = 77;
    }
    wait_folded(ram);
    stay();
  }
  if (what == "crowd") {
    for (int i = 0; i < 400; ++i) {
      apart([] {
        for (int k = 0; k < 3; ++k) {
          const Connection c;  // open until the process ends
          c.say_hello();
        }
      });
    }
    stay();
  }
  return 2;
}
