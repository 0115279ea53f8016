// SPDX-License-Identifier: GPL-2.0-or-later
// Interrupts another thread: the system call in which it waits fails with EINTR. An interrupt that
// arrives just before the call has no effect, so the caller repeats it until the thread has
// answered.
// Threads: let_interrupt_this_thread() on the one to be interrupted, interrupt() from any.
#pragma once

#include <pthread.h>
#include <csignal>

namespace ramfold::sys {

// By default SIGURG is ignored, so it does no harm to a thread that has not yet called
// let_interrupt_this_thread(). The kernel sends it for urgent data at a socket; no socket of ours
// has any.
inline constexpr int kInterrupt = SIGURG;

// Sets the handler for the whole process, always the same one, and unblocks the signal for this
// thread.
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
