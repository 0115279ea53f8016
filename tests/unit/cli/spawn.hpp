// SPDX-License-Identifier: GPL-2.0-or-later
// Runs a program, with its own environment, and collects what it writes.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "patience.hpp"
#include "sys/fd.hpp"

namespace ramfold::cli {

struct Ran {
  int status = -1;  // exit status; -signal when killed
  std::string out;
  std::string err;
};

// `enough` is for a program that runs for ever: SIGINT ends the program when its output is enough,
// or when the output does not come.
inline Ran spawn(const std::vector<std::string>& command,
                 const std::vector<std::string>& environment,
                 const std::function<bool(const Ran&)>& enough = nullptr) {
  std::array<int, 2> out{};
  std::array<int, 2> err{};
  if (::pipe2(out.data(), O_CLOEXEC) != 0 || ::pipe2(err.data(), O_CLOEXEC) != 0) {
    throw std::runtime_error("pipe");
  }
  std::vector<char*> argv;
  std::vector<char*> envp;
  for (const auto& text : command) argv.push_back(const_cast<char*>(text.c_str()));
  for (const auto& text : environment) envp.push_back(const_cast<char*>(text.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(99);
  }
  ::close(out[1]);
  ::close(err[1]);
  const sys::Fd out_read(out[0]);
  const sys::Fd err_read(err[0]);
  Ran ran;
  std::array<pollfd, 2> wait{pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(ramfold::test::patient(20'000));
  bool interrupted = false;
  while (wait[0].fd >= 0 || wait[1].fd >= 0) {
    if (enough && !interrupted && (enough(ran) || Clock::now() >= end)) {
      ::kill(child, SIGINT);
      interrupted = true;
    }
    (void)::poll(wait.data(), wait.size(), enough && !interrupted ? 50 : -1);
    for (std::size_t i = 0; i < wait.size(); ++i) {
      if (wait[i].fd < 0 || wait[i].revents == 0) continue;
      std::array<char, 4096> part{};
      const ssize_t n = ::read(wait[i].fd, part.data(), part.size());
      if (n <= 0) {
        wait[i].fd = -1;
      } else {
        (i == 0 ? ran.out : ran.err).append(part.data(), static_cast<std::size_t>(n));
      }
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return ran;
}

}  // namespace ramfold::cli
