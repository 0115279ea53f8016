// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/closer.hpp"

#include <fcntl.h>

#include "keeper/log.hpp"
#include "keeper/protocol.hpp"
#include "sys/thread.hpp"

namespace ramfold::keeper {
namespace {

constexpr int kCloserQueue = kHeldMax;

void close_what_comes(int queue) noexcept {
  int fd = -1;
  // A read of four bytes is never split: every write has four bytes.
  while (::read(queue, &fd, sizeof fd) == static_cast<ssize_t>(sizeof fd)) ::close(fd);
  ::close(queue);
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
  Closer closer(std::move(in), std::move(out));
  if (!closer.begin())
    log(Priority::warning, "no thread to close descriptors on: the keeper closes them itself");
  return closer;
}

bool Closer::begin() {
  if (!out_) return true;
  auto thread = sys::Thread::start("closer", [queue = out_.get()] { close_what_comes(queue); });
  if (!thread) return false;
  static_cast<void>(out_.release());
  thread->leave();
  return true;
}

void Closer::close(sys::Fd fd) noexcept {
  if (!begin()) return;  // `fd` closes here
  const int number = fd.get();
  if (::write(queue_.get(), &number, sizeof number) == static_cast<ssize_t>(sizeof number)) {
    static_cast<void>(fd.release());
  }
}

}  // namespace ramfold::keeper
