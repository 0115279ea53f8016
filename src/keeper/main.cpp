// SPDX-License-Identifier: GPL-2.0-or-later
// ramfold-keeper: holds the descriptors that must outlive the daemon (docs/keeper-protocol.md).
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "keeper/log.hpp"
#include "keeper/server.hpp"
#include "sys/message.hpp"

namespace ramfold::keeper {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitLater = 3;  // the unit starts the keeper again; see Server::Ended
// Standard streams, sockets, connections, and descriptors that arrive before they are refused.
constexpr std::size_t kOwnDescriptors = 128;

constexpr const char* kHelp =
    "Usage: ramfold-keeper [--socket PATH]\n"
    "Holds the descriptors of folded guests while ramfoldd is restarted, upgraded or killed.\n"
    "  --socket PATH  where the daemon connects (default /run/ramfold/keeper.sock)\n"
    "  --version      print the version and exit\n"
    "  --help         print this and exit\n"
    "It ends on SIGTERM only when it holds nothing: `ramfold off` unfolds all guests first. On\n"
    "SIGHUP it ends once the service manager holds everything, too; that starts a new keeper.\n";

struct Options {
  std::string socket = kDefaultSocket;
  int exit_code = -1;  // >= 0: do not run
};

Options parse_options(int argc, char** argv) {
  static const option kLong[] = {{"socket", required_argument, nullptr, 's'},
                                 {"version", no_argument, nullptr, 'v'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {nullptr, 0, nullptr, 0}};
  Options options;
  for (int c = 0; (c = ::getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    switch (c) {
      case 's': options.socket = optarg; break;
      case 'v':
        std::puts("ramfold-keeper " RAMFOLD_VERSION);
        options.exit_code = 0;
        return options;
      case 'h':
        std::fputs(kHelp, stdout);
        options.exit_code = 0;
        return options;
      default: options.exit_code = kExitUsage; return options;
    }
  }
  if (optind != argc) {
    std::fputs(kHelp, stderr);
    options.exit_code = kExitUsage;
  }
  return options;
}

// Blocks every signal that can be blocked. Only the signals that ask the keeper to end have an
// effect; the signalfd reads them.
Result<sys::Fd> hold_signals() {
  sigset_t all;
  ::sigfillset(&all);
  for (const int fatal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP}) {
    ::sigdelset(&all, fatal);
  }
  if (::sigprocmask(SIG_BLOCK, &all, nullptr) != 0) return fail_errno("sigprocmask");
  sys::Fd fd(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return fail_errno("signalfd");
  return fd;
}

std::size_t entries_max() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kHeldMax;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 2 * kHeldMax + kOwnDescriptors);
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::getrlimit(RLIMIT_NOFILE, &limit);
  // Half of the limit is for dropped descriptors that wait to be closed.
  const std::size_t room = (limit.rlim_cur - std::min<rlim_t>(limit.rlim_cur, kOwnDescriptors)) / 2;
  if (room < kHeldMax) {
    log(Priority::warning,
        "the limit of open files leaves room for " + std::to_string(room) + " descriptors");
  }
  return std::min(room, kHeldMax);
}

// The lock file tells a living keeper from a socket that a dead one left behind, because the kernel
// releases a lock when its process ends. The caller holds it in `lock`.
Result<sys::Fd> listen_at(const std::string& path, sys::Fd& lock) {
  const std::string lock_path = path + ".lock";
  lock = sys::Fd(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno("open " + lock_path);
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(lock.get(), F_SETLK, &whole) != 0) {
    return fail("another keeper serves " + path, errno);
  }
  return sys::listen_seqpacket(path, 0600);
}

int run(const Options& options) {
  set_up_log();
  // Before any other descriptor is opened: those from 3 on are the service manager's.
  Passed passed = take_passed();
  const char* notify = std::getenv("NOTIFY_SOCKET");
  auto signals = hold_signals();
  auto store = SystemdStore::open(notify == nullptr ? "" : notify);
  if (!signals || !store) {
    log(Priority::error, !signals ? signals.error().text() : store.error().text());
    return kExitFailed;
  }
  ::umask(0077);
  if (::chdir("/") != 0) log(Priority::warning, "cannot change to /");
  sys::Fd lock;
  auto listener = passed.listener ? Result<sys::Fd>(std::move(passed.listener))
                                  : listen_at(options.socket, lock);
  if (!listener) {
    log(Priority::error, listener.error().text());
    return kExitFailed;
  }
  // Locked for safety, not for speed: a page of the keeper that was swapped to a failing disk would
  // raise SIGBUS. The keeper is small. Where the limit forbids it, the keeper runs all the same.
  if (::mlockall(MCL_CURRENT) != 0) {
    log(Priority::warning, "memory is not locked (LimitMEMLOCK); going on");
  }
  auto closer = Closer::start();
  if (!closer) {
    log(Priority::error, closer.error().text());
    return kExitFailed;
  }
  Server server(Table(entries_max()), std::move(*store), std::move(*closer), std::move(*listener),
                std::move(*signals));
  server.restore(std::move(passed));
  return server.run() == Server::Ended::when_asked ? 0 : kExitLater;
}

}  // namespace
}  // namespace ramfold::keeper

int main(int argc, char** argv) {
  const auto options = ramfold::keeper::parse_options(argc, argv);
  return options.exit_code >= 0 ? options.exit_code : ramfold::keeper::run(options);
}
