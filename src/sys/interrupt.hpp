// SPDX-License-Identifier: GPL-2.0-or-later
// Ends the system call in which another thread waits: that fails with EINTR. One that comes just
// before the call is lost, so whoever interrupts does it again until the thread has answered.
// Threads: let_interrupt_this_thread() on the one to be interrupted, interrupt() from any.
#pragma once

#include <pthread.h>
#include <csignal>

namespace ramfold::sys {

// Ignored by whoever has not asked for it, as a thread that has only just begun; it stands for
// urgent data at a socket, which none of ours has.
inline constexpr int kInterrupt = SIGURG;

// The handler is the process's and always the same, the mask this thread's.
inline void let_interrupt_this_thread() noexcept {
  struct sigaction action{};
  action.sa_handler = [](int) {};  // and no SA_RESTART
  (void)::sigaction(kInterrupt, &action, nullptr);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kInterrupt);
  (void)::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// REQUIRES: the thread was not joined or detached; it may have ended.
inline void interrupt(pthread_t thread) noexcept { (void)::pthread_kill(thread, kInterrupt); }

}  // namespace ramfold::sys
