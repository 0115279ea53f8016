// SPDX-License-Identifier: GPL-2.0-or-later
// The other end of the agent's socket, as much of a daemon as the agent can tell, and the process
// it is preloaded into. Everything waits with a limit and fails the test when it passes.
// Threads: one test's.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "agent/wire.h"

namespace agent_test {

// ThreadSanitizer's runtime answers mlock() and mlockall() itself; the guest's mlock is an mlock2()
// then.
#ifdef __SANITIZE_THREAD__
inline constexpr bool kMlockallReachesAgent = false;
#else
inline constexpr bool kMlockallReachesAgent = true;
#endif
inline constexpr int kWaitMs = 30'000;  // of a loaded machine
inline constexpr int kSoonMs = 150;     // long enough to see that something waits

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(o.release()) {}
  Fd& operator=(Fd&& o) noexcept;
  ~Fd() { reset(); }
  void reset();
  int release() { return std::exchange(fd_, -1); }
  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct Packet {
  std::vector<char> bytes;
  std::vector<Fd> fds;
  template <typename T>
  const T& as() const {
    if (bytes.size() < sizeof(T)) throw std::runtime_error("a message too short");
    return *reinterpret_cast<const T*>(bytes.data());
  }
  [[nodiscard]] uint16_t type() const { return as<rf_header>().type; }
};

std::string temporary_directory();

// The memory shared with the agent, as the daemon makes it.
class Shared {
 public:
  Shared(uint64_t pages, uint32_t session);
  ~Shared();
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  rf_shared* operator->() const { return shared_; }
  [[nodiscard]] bool bit(uint64_t page) const;
  [[nodiscard]] uint64_t bits() const;  // set, in all
  void clear_bits();
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  Fd fd_;
  uint64_t pages_;
  size_t bytes_;
  rf_shared* shared_;
};

class Daemon {
 public:
  explicit Daemon(std::string path);
  void listen();
  void accept();   // waits for the agent
  void hang_up();  // the connection
  void die();      // the connection and the socket
  [[nodiscard]] bool connects_within(int ms);
  [[nodiscard]] pid_t peer_pid() const;
  [[nodiscard]] int socket() const { return peer_.get(); }

  std::optional<Packet> receive_within(int ms);
  Packet receive();             // anything
  Packet expect(rf_type type);  // skips skippable messages
  void send(void* message, size_t length, uint16_t type, uint32_t generation, int fd = -1);

  rf_hello hello();  // accept and the first message
  void welcome(rf_action action, uint32_t generation, int fd = -1, uint8_t instance = 42);
  rf_offer offer(uint32_t generation);  // welcome, and what comes; keeps uffd and RAM files
  void attach(const Shared& shared, uint32_t generation);
  void attached_from_scratch(const Shared& shared, uint32_t generation);

  [[nodiscard]] const std::string& path() const { return path_; }
  Fd uffd;
  std::vector<Fd> ram;

 private:
  std::string path_;
  Fd listening_, peer_;
};

struct Answer {
  long result;
  int error;
  bool operator==(const Answer&) const = default;
};

// A program with the agent preloaded, on pipes.
class Guest {
 public:
  struct Options {
    std::vector<std::string> command;  // empty: the fake QEMU
    std::vector<std::string> environment;
    std::string library;  // the agent; empty: where it was built
    std::string preload;  // behind the agent
    int extra_fd = -1;    // left open in the program
    unsigned uid = 0;
    bool agent = true;
  };
  Guest(const std::string& socket, Options options);
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  void tell(const std::string& line);
  std::optional<Answer> answer_within(int ms);
  Answer ask(const std::string& line);
  long good(const std::string& line);  // ask, and the call must have succeeded
  std::string read_errors();           // what came on stderr so far
  void wait_for_errors();              // until there is a line
  std::string read_output_until(const std::string& text);
  void finish();  // closes stdin and waits for the end of it
  [[nodiscard]] bool alive() const;
  pid_t pid = -1;        // of what was started
  pid_t inner_pid = -1;  // of the fake QEMU, by its own account
  int exit_status = -1;

 private:
  Fd in_, out_, err_;
  std::string output_, errors_;
};

void register_all(const Fd& uffd, uint64_t address, uint64_t size);
bool missing_within(const Fd& uffd, int ms, uint64_t* address);
void install(const Fd& uffd, uint64_t address, char byte);
Fd open_userfaultfd();  // the device; throws when it cannot be had

}  // namespace agent_test
