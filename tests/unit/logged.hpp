// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon writes into its log, for tests.
// Threads: one.
#pragma once

#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <string>
#include <utility>

#include "sys/memory.hpp"

namespace ramfold::test {

// What the log gets while this is there: on stderr, or on stdout before log::set_up().
class Logged {
 public:
  Logged() : file_(std::move(*sys::make_memfd("log", ByteCount{0}, sys::Sealed::no))) {
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
      std::fflush(nullptr);
      before_[static_cast<std::size_t>(fd - 1)].reset(::dup(fd));
      ::dup2(file_.get(), fd);
    }
  }
  // How often `text` stands in the log.
  std::size_t end(const std::string& text) {
    std::fflush(nullptr);
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
      ::dup2(before_[static_cast<std::size_t>(fd - 1)].get(), fd);
    std::string all(static_cast<std::size_t>(::lseek(file_.get(), 0, SEEK_END)), ' ');
    (void)!::pread(file_.get(), all.data(), all.size(), 0);
    INFO(all);
    std::size_t count = 0;
    for (std::size_t at = 0; (at = all.find(text, at)) != std::string::npos; ++at) ++count;
    return count;
  }

 private:
  sys::Fd file_;
  std::array<sys::Fd, 2> before_;
};

}  // namespace ramfold::test
