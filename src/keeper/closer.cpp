// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/closer.hpp"

#include <fcntl.h>
#include <system_error>
#include <thread>

#include "keeper/protocol.hpp"

namespace ramfold::keeper {
namespace {

constexpr int kCloserQueue = kHeldMax;

void close_what_comes(sys::Fd queue) noexcept {
  int fd = -1;
  // A pipe carries four bytes whole.
  while (::read(queue.get(), &fd, sizeof fd) == static_cast<ssize_t>(sizeof fd)) ::close(fd);
}

}  // namespace

Result<Closer> Closer::start() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe2");
  sys::Fd out(ends[0]);
  sys::Fd in(ends[1]);
  if (::fcntl(in.get(), F_SETFL, O_NONBLOCK) != 0 ||
      ::fcntl(in.get(), F_SETPIPE_SZ, kCloserQueue * static_cast<int>(sizeof(int))) < 0) {
    return fail_errno("set up a pipe");
  }
  try {
    std::thread(close_what_comes, std::move(out)).detach();
  } catch (const std::system_error& error) {
    return fail("start a thread", error.code().value());
  }
  return Closer(std::move(in));
}

void Closer::close(sys::Fd fd) noexcept {
  const int number = fd.get();
  if (::write(queue_.get(), &number, sizeof number) == static_cast<ssize_t>(sizeof number)) {
    static_cast<void>(fd.release());
  }
}

}  // namespace ramfold::keeper
