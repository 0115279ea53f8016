// SPDX-License-Identifier: GPL-2.0-or-later
// A real keeper process for tests, on a socket in a directory of its own.
// Threads: one.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "keeper/client.hpp"
#include "patience.hpp"

namespace ramfold::keeper::test {

using namespace std::chrono_literals;

inline sys::Fd memfd() { return sys::Fd(::memfd_create("keeper_test", MFD_CLOEXEC)); }
inline sys::Fd pidfd_of(pid_t pid) {
  return sys::Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

// Whether somebody serves `socket`. Its file is there a moment earlier: between bind(2) and
// listen(2) the kernel refuses a connection.
inline bool listening(const std::string& socket) {
  constexpr unsigned long kAccepts = 0x10000;  // SO_ACCEPTCON, unix_seq_show() of the kernel
  std::ifstream sockets("/proc/net/unix");
  std::string number, references, protocol, flags, type, state, inode, path;
  std::getline(sockets, path);  // the head of the table
  for (std::string line; std::getline(sockets, line);) {
    std::istringstream columns(line);
    columns >> number >> references >> protocol >> flags >> type >> state >> inode >> path;
    if (columns && path == socket && (std::stoul(flags, nullptr, 16) & kAccepts) != 0) return true;
  }
  return false;
}

inline bool eventually(const std::function<bool()>& done) { return ramfold::test::soon(done); }

// A pipe whose write end somebody else is given: `closed()` when nobody holds it any more.
struct Token {
  sys::Fd read_end, write_end;
  Token() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error("pipe2");
    read_end = sys::Fd(fds[0]);
    write_end = sys::Fd(fds[1]);
  }
  bool closed() const {
    char byte;
    return ::read(read_end.get(), &byte, 1) == 0;
  }
};

class Directory {
 public:
  Directory() {
    char text[] = "/tmp/ramfold-keeper-test-XXXXXX";
    if (::mkdtemp(text) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = text;
  }
  ~Directory() {
    const std::string command = "rm -rf '" + path_ + "'";
    if (std::system(command.c_str()) != 0) std::perror("rm");
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A child that waits to be killed; a stand-in for a VM.
class Child {
 public:
  template <typename Body>
  explicit Child(const Body& body) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    ::_exit(0);
  }
  Child()
      : Child([] {
          for (;;) ::pause();
        }) {}
  ~Child() { kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_;
};

class KeeperProcess {
 public:
  // What systemd would pass: descriptors from 3 on with their names, and where to be notified.
  struct Manager {
    std::vector<std::pair<std::string, int>> passed;
    std::string notify;
  };

  // `open_files_max`: its limit of open files; 0: as it is here.
  explicit KeeperProcess(std::string socket, const Manager& manager = {}, rlim_t open_files_max = 0)
      : socket_(std::move(socket)) {
    pid_ = ::fork();
    if (pid_ == 0 && open_files_max != 0) {
      const rlimit limit{open_files_max, open_files_max};
      ::setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (pid_ == 0) become_keeper(manager);
    if (!eventually([&] { return !running() || listening(socket_); })) {
      throw std::runtime_error("the keeper did not come up");
    }
  }
  ~KeeperProcess() { kill(); }
  KeeperProcess(const KeeperProcess&) = delete;
  KeeperProcess& operator=(const KeeperProcess&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& socket() const { return socket_; }
  bool running() {
    if (!status_ && ::waitpid(pid_, &raw_status_, WNOHANG) == pid_) status_ = raw_status_;
    return !status_;
  }
  // Waits for it to end by itself.
  std::optional<int> exit_code() {
    if (!eventually([&] { return !running(); }) || !WIFEXITED(*status_)) return std::nullopt;
    return WEXITSTATUS(*status_);
  }
  void signal(int number) const { ::kill(pid_, number); }
  void kill() {
    if (!running()) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    status_ = 0;
  }
  // Retries, for a keeper that is still coming up or a predecessor it has not seen off yet.
  Client connect() const {
    std::optional<Client> client;
    Error last;
    eventually([&] {
      auto made = Client::connect(socket_);
      if (made)
        client.emplace(std::move(*made));
      else
        last = made.error();
      return client.has_value();
    });
    if (!client) throw std::runtime_error(last.text());
    return std::move(*client);
  }
  std::size_t open_descriptors() const;

 private:
  [[noreturn]] void become_keeper(const Manager& manager) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const char* exe = std::getenv("RAMFOLD_KEEPER");
    std::string names;
    // Out of the way first, then down to 3, 4, ...
    std::vector<int> high;
    for (const auto& [name, fd] : manager.passed) high.push_back(::fcntl(fd, F_DUPFD, 10'000));
    for (std::size_t i = 0; i < high.size(); ++i) {
      names += (i == 0 ? "" : ":") + manager.passed[i].first;
      ::dup2(high[i], 3 + static_cast<int>(i));
      ::close(high[i]);
    }
    if (!manager.passed.empty()) {
      ::setenv("LISTEN_FDS", std::to_string(manager.passed.size()).c_str(), 1);
      ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
      ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    }
    if (manager.notify.empty())
      ::unsetenv("NOTIFY_SOCKET");
    else
      ::setenv("NOTIFY_SOCKET", manager.notify.c_str(), 1);
    if (exe != nullptr) ::execl(exe, exe, "--socket", socket_.c_str(), nullptr);
    std::perror("RAMFOLD_KEEPER");
    ::_exit(127);
  }

  std::string socket_;
  pid_t pid_ = -1;
  int raw_status_ = 0;
  std::optional<int> status_;
};

inline std::size_t KeeperProcess::open_descriptors() const {
  const std::string command = "ls /proc/" + std::to_string(pid_) + "/fd | wc -l";
  FILE* pipe = ::popen(command.c_str(), "r");
  std::size_t count = 0;
  if (pipe == nullptr || std::fscanf(pipe, "%zu", &count) != 1) count = 0;
  if (pipe != nullptr) ::pclose(pipe);
  return count;
}

}  // namespace ramfold::keeper::test
