// SPDX-License-Identifier: GPL-2.0-or-later
// Closes descriptors on a thread of its own. The close(2) of a RAM file's last descriptor frees the
// file's memory, and takes 0.3 to 0.6 s for a GiB here. On the keeper's loop, a dead VM of 64 GiB
// would make the hand-overs of other VMs, and a restarted daemon, wait for half a minute.
//
// Threads: close() on one thread. The closing thread is the keeper's only other thread; it touches
// nothing but the descriptors that it is given, and ends with the process. Bound: the pipe between
// the two threads holds kCloserQueue descriptors. When it is full, and while the closing thread
// could not be started, close() closes the descriptor itself.
#pragma once

#include <cstddef>

#include "base/result.hpp"
#include "sys/fd.hpp"

namespace ramfold::keeper {

class Closer {
 public:
  static Result<Closer> start();
  void close(sys::Fd fd) noexcept;

 private:
  Closer(sys::Fd queue, sys::Fd out) noexcept : queue_(std::move(queue)), out_(std::move(out)) {}
  bool begin();  // false: there is no thread

  sys::Fd queue_;  // the pipe's write end; it carries descriptor numbers
  sys::Fd out_;    // its read end, until the thread has begun
};

}  // namespace ramfold::keeper
