// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/end_watch.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/clock.hpp"
#include "sys/capabilities.hpp"
#include "sys/close_all_but.hpp"
#include "sys/pin_test.hpp"
#include "sys/procfs.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

constexpr int kEndingMs = 2000;  // how long an ordinary end may take
constexpr std::uint64_t kBarrierUs = 5'000'000;
constexpr std::uint64_t kNapNs = 10'000'000;
constexpr unsigned kNaps = 500;

// systemd sees the end of its own children only. A process becomes its child when its parent has
// ended.
[[noreturn]] void be_the_main_process(pid_t parent, pid_t held, int status) {
  for (unsigned i = 0; ::getppid() == parent && i < kNaps; ++i) sleep_ns(kNapNs);
  std::fprintf(
      stderr,
      "ramfoldd (pid %d) has ended, except for threads that VMs hold up; the next ramfoldd "
      "runs beside it\n",
      held);
  (void)::sd_notifyf(0, "MAINPID=%d", ::getpid());
  (void)::sd_notify_barrier(0, kBarrierUs);
  ::_exit(status);
}

// The signal comes when the parent's first thread ends; anybody may send it.
void wait_for_signal(pid_t parent) noexcept {
  if (::getppid() != parent) return;
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  siginfo_t info{};
  while (::sigwaitinfo(&wanted, &info) != SIGUSR1) {
  }
}

[[noreturn]] void watch(pid_t parent, const int* status) {
  sys::close_all_but(std::array{STDERR_FILENO});
  sys::name_this_thread("rf-end-watch");
  (void)sys::drop_capabilities(sys::PinTest::kCapabilities);
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, parent, 0));
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGUSR1);
  const sys::Procfs procfs;
  do {
    wait_for_signal(parent);
    pollfd ended{pidfd, POLLIN, 0};
    if (pidfd < 0 || ::poll(&ended, 1, kEndingMs) != 0) ::_exit(0);
  } while (procfs.start_ticks(parent));  // its first thread lives
  const pid_t self = ::getpid();
  if (::fork() == 0) be_the_main_process(self, parent, *status);
  ::_exit(0);
}

}  // namespace

EndWatch EndWatch::start() noexcept {
  if (::getenv("NOTIFY_SOCKET") == nullptr) return EndWatch(nullptr);
  void* const page =
      ::mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return EndWatch(nullptr);
  int* const status = static_cast<int*>(page);
  *status = 1;
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) watch(parent, status);
  return EndWatch(child < 0 ? nullptr : status);
}

void EndWatch::will_end_with(int status) const noexcept {
  if (status_ != nullptr) *status_ = status;
}

}  // namespace ramfold::daemon
