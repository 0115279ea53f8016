// SPDX-License-Identifier: GPL-2.0-or-later
// Very many small VMs: a process each, with an agent that only attaches. crowd_guest SOCKET COUNT
// USERS; then a line on stdin does something in each of them, and a line tells how many managed:
//   attach   connects, offers its RAM, is ready (again after a restart of the daemon)
//   check    reads every byte of its RAM
// The VMs have USERS uids. Threads: one a process.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "agent/wire.h"
#include "kernel/by_hand.hpp"

using namespace ramfold::test;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 16;
constexpr int kAnswerMs = 120'000;
constexpr unsigned kAttachTries = 20;
constexpr unsigned kAttachPauseUs = 250'000;
constexpr uid_t kFirstUser = 3'000'001;     // beyond the ranges of /etc/subuid
constexpr std::size_t kAttachesAtOnce = 8;  // below what the daemon looks at for one user

class Vm {
 public:
  Vm(const char* socket, std::uint32_t number) : socket_(socket), number_(number) {
    ram_ = ::memfd_create("crowd-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (::ftruncate(ram_, kPages * kPage) != 0 ||
        ::fcntl(ram_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
      ::_exit(3);
    }
    void* const at = ::mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ram_, 0);
    if (at == MAP_FAILED) ::_exit(3);
    (void)::madvise(at, kPages * kPage, MADV_NOHUGEPAGE);
    words_ = static_cast<std::uint64_t*>(at);
    for (std::size_t i = 0; i < kPages * kWords; ++i) words_[i] = value(i);
  }
  bool check() const {
    const volatile std::uint64_t* const words = words_;
    for (std::size_t i = 0; i < kPages * kWords; ++i) {
      if (words[i] != value(i)) return false;
    }
    return true;
  }
  // Where the machine is so busy that the daemon takes who receives this user's descriptors for
  // held up, it refuses for now: asked again, it attaches.
  bool attach() {
    for (unsigned tries = 0; tries < kAttachTries; ++tries) {
      if (tries != 0) ::usleep(kAttachPauseUs);
      if (try_to_attach()) return true;
    }
    return false;
  }

 private:
  bool try_to_attach() {
    if (connection_ >= 0) ::close(connection_);
    connection_ = connect_by_hand(socket_);
    if (connection_ < 0) return false;
    rf_hello hello{};
    hello.version_min = RF_VERSION_MIN;
    hello.version_max = RF_VERSION_MAX;
    hello.blocks = 1;
    hello.capabilities = RF_CAP_DISCARD | RF_CAP_BUFFERED | RF_CAP_CONSUMERS | RF_CAP_FILLS;
    std::memcpy(hello.instance, instance_, sizeof instance_);
    hello.folded = uffd_ >= 0 ? 1 : 0;
    int fd = -1;
    if (!send(RF_HELLO, hello, {}) || !receive(RF_WELCOME, fd)) return false;
    rf_welcome welcome{};
    std::memcpy(&welcome, bytes_.data(), sizeof welcome);
    if (welcome.action == RF_ACTION_OFFER) return offer(fd);
    ::close(fd);
    return welcome.action == RF_ACTION_RESUME && send_ready();
  }

  static constexpr std::size_t kWords = kPage / sizeof(std::uint64_t);

  // Compresses well, and is no other page's.
  std::uint64_t value(std::size_t i) const {
    return (std::uint64_t{number_} << 32) + i / kWords * 256 + i % 7 + 1;
  }
  bool offer(int device) {
    uffd_ = ::ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
    ::close(device);
    struct stat st{};
    if (uffd_ < 0 || ::fstat(ram_, &st) != 0) return false;
    rf_offer offer{};
    offer.blocks = 1;
    offer.block[0] = {reinterpret_cast<std::uintptr_t>(words_), kPages * kPage, 0, st.st_dev,
                      st.st_ino};
    int fd = -1;
    if (!send(RF_OFFER, offer, {uffd_, ram_}) || !receive(RF_ATTACHED, fd)) {
      ::close(std::exchange(uffd_, -1));
      return false;
    }
    ::close(fd);
    rf_attached attached{};
    std::memcpy(&attached, bytes_.data(), sizeof attached);
    std::memcpy(instance_, attached.instance, sizeof instance_);
    return send_ready();
  }
  bool send_ready() {
    rf_ready ready{};
    std::memcpy(ready.instance, instance_, sizeof instance_);
    return send(RF_READY, ready, {});
  }
  template <typename Message>
  bool send(std::uint16_t type, Message message, const std::vector<int>& fds) const {
    return send_by_hand(connection_, type, generation_, message, fds);
  }
  bool receive(std::uint16_t type, int& fd) {
    const HeardByHand heard = receive_by_hand(connection_, kAnswerMs);
    if (heard.type == 0) return false;
    generation_ = heard.generation;
    bytes_ = heard.bytes;
    if (heard.fd >= 0) fd = heard.fd;
    if (heard.type == type) return true;
    if (heard.type == RF_REFUSED)
      std::fprintf(stderr, "vm %u: refused: %s\n", number_, bytes_.data() + sizeof(rf_header));
    return false;
  }

  const char* const socket_;
  const std::uint32_t number_;
  int ram_ = -1;
  int uffd_ = -1;
  int connection_ = -1;
  std::uint64_t* words_ = nullptr;
  std::uint32_t generation_ = 0;
  std::uint8_t instance_[16]{};
  std::array<char, RF_MESSAGE_MAX> bytes_{};
};

[[noreturn]] void be_vm(const char* socket, std::uint32_t number, std::uint32_t users, int orders,
                        int answers) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::setuid(kFirstUser + number % users) != 0) ::_exit(3);
  Vm vm(socket, number);
  char order = 0;
  while (::read(orders, &order, 1) == 1) {
    const bool done = order == 'a' ? vm.attach() : vm.check();
    const char answer = done ? 'y' : 'n';
    if (::write(answers, &answer, 1) != 1) break;
  }
  ::_exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto count = static_cast<std::uint32_t>(std::atoi(argv[2]));
  const auto users = static_cast<std::uint32_t>(std::atoi(argv[3]));
  std::array<int, 2> answers{};
  if (::pipe2(answers.data(), O_CLOEXEC) != 0) return 3;
  std::vector<int> orders;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::array<int, 2> order{};
    if (::pipe2(order.data(), O_CLOEXEC) != 0) return 3;
    const pid_t child = ::fork();
    if (child < 0) return 3;
    if (child == 0) {
      // As few as a VM has: the daemon looks at all that a process holds.
      const std::array kept{0, 2, order[0], answers[1]};
      for (int fd = 0; fd <= std::max(order[1], answers[1]); ++fd) {
        if (std::ranges::find(kept, fd) == kept.end()) ::close(fd);
      }
      be_vm(argv[1], i, users, order[0], answers[1]);
    }
    ::close(order[0]);
    orders.push_back(order[1]);
  }
  std::printf("there\n");
  std::fflush(stdout);
  std::array<char, 64> line{};
  while (std::fgets(line.data(), line.size(), stdin) != nullptr) {
    const bool attach = line[0] == 'a';
    const std::size_t at_once = attach ? kAttachesAtOnce * users : orders.size();
    std::size_t sent = 0, told = 0, good = 0;
    while (told < orders.size()) {
      for (; sent < orders.size() && sent - told < at_once; ++sent) {
        if (::write(orders[sent], line.data(), 1) != 1) return 3;
      }
      char answer = 0;
      if (::read(answers[0], &answer, 1) != 1) return 3;
      ++told;
      good += answer == 'y' ? 1 : 0;
    }
    std::printf("%zu\n", good);
    std::fflush(stdout);
  }
  return 0;
}
