// SPDX-License-Identifier: GPL-2.0-or-later
// Closes descriptors beside the loop. Whoever closes the last descriptor of a RAM file frees its
// memory in close(2), 0.3 to 0.6 s for a GiB here: a dead VM of 64 GiB would keep the others'
// hand-overs, and a restarted daemon, waiting for half a minute.
//
// Threads: close() on one thread; the closing thread, the keeper's only other one, touches nothing
// but the descriptors it is given. It ends with the process. Bound: what the pipe between them
// holds, kCloserQueue; then close() closes by itself, as it does while there is no thread.
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

  sys::Fd queue_;  // of descriptor numbers
  sys::Fd out_;    // its other end, until the thread has begun
};

}  // namespace ramfold::keeper
