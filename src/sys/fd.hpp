// SPDX-License-Identifier: GPL-2.0-or-later
// Ownership of a file descriptor.
// Threads: a value; one owner.
#pragma once

#include <unistd.h>
#include <utility>

#include "base/result.hpp"

namespace ramfold::sys {

class Fd {
 public:
  Fd() noexcept = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }
  // A duplicate with CLOEXEC.
  Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

// A descriptor somebody else owns; valid for the call it is passed to.
class BorrowedFd {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a view
  BorrowedFd(const Fd& fd) noexcept : fd_(fd.get()) {}
  explicit BorrowedFd(int fd) noexcept : fd_(fd) {}
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace ramfold::sys
