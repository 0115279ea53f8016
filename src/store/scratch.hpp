// SPDX-License-Identifier: GPL-2.0-or-later
// What a thread works with, taken when it first needs it. A thread_local object of that size would
// be there in every thread of the daemon: the C library clears all of them as a thread starts, and
// a cleared page is a resident one. (With 260 KiB a thread, and a fault thread a VM, that was the
// larger part of the daemon's own memory.)
// Threads: each its own. The first call allocates; a thread that may not do that later calls before
// (prepare_to_decode).
#pragma once

#include <memory>

namespace ramfold::store {

// Not initialised but by T's own constructor; the same object at every call.
template <typename T>
T& thread_scratch() {
  thread_local const std::unique_ptr<T> mine(new T);
  return *mine;
}

}  // namespace ramfold::store
