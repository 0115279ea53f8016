// SPDX-License-Identifier: GPL-2.0-or-later
// Scratch memory of a thread, allocated when the thread first needs it. A large thread_local object
// would take memory in every thread of the daemon: the C library clears it when a thread starts,
// and a cleared page is resident. (With 260 KiB in each thread, and a fault thread for each VM,
// this was the larger part of the daemon's own memory.)
// Threads: each has its own. The first call allocates. A thread that must not allocate later makes
// that call early (prepare_to_decode).
#pragma once

#include <memory>

namespace ramfold::store {

// The thread's object; the same one at every call. Only T's constructor initialises it.
template <typename T>
T& thread_scratch() {
  thread_local const std::unique_ptr<T> mine(new T);
  return *mine;
}

}  // namespace ramfold::store
