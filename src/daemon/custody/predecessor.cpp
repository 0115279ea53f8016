// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/predecessor.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kEndingNs = 1'000'000'000;  // how long an ordinary end may take
constexpr std::uint64_t kNapNs = 10'000'000;

enum class Holder { lives, ends, gone };

struct flock whole_file() noexcept {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  return lock;
}

// Looks at the process that holds the lock. `remains` is complete if this returns `ends`.
Holder look_at(const sys::Procfs& procfs, pid_t pid, Remains& remains) {
  remains = {.pid = pid, .start_ticks = procfs.start_ticks(pid).value_or(0), .vms = {}};
  bool lives = false;
  std::size_t threads = 0;
  const sys::Seen seen = procfs.tasks(pid, [&](const sys::TaskState& task) {
    ++threads;
    lives = lives || !task.dying;
    const auto vm = sys::vm_of_thread(task.name);
    if (vm && !task.ended) remains.vms.push_back(*vm);
    return !lives;
  });
  if (seen == sys::Seen::gone || (seen == sys::Seen::all && threads == 0)) return Holder::gone;
  return lives || seen != sys::Seen::all ? Holder::lives : Holder::ends;
}

// Two daemons that start together must not both replace the lock file of the same remains.
Result<sys::Fd> one_at_a_time(const std::string& dir) {
  const std::string path = dir + "/ramfoldd.start.lock";
  sys::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("open " + path);
  struct flock lock = whole_file();
  if (::fcntl(fd.get(), F_SETLKW, &lock) != 0) return fail_errno("lock " + path);
  return fd;
}

}  // namespace

Result<HostLock> take_host_lock(const std::string& dir, const sys::Procfs& procfs) {
  if (::mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) return fail_errno("create " + dir);
  const auto starting = one_at_a_time(dir);
  if (!starting) return std::unexpected(starting.error());
  const std::string path = dir + "/ramfoldd.lock";
  std::optional<Remains> found;
  for (const std::uint64_t began_ns = monotonic_ns();;) {
    sys::Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!file) return fail_errno("open " + path);
    struct flock lock = whole_file();
    if (::fcntl(file.get(), F_SETLK, &lock) == 0) return HostLock{std::move(file), found};
    if (errno != EAGAIN && errno != EACCES) return fail_errno("lock " + path);
    struct flock held = whole_file();
    if (::fcntl(file.get(), F_GETLK, &held) != 0) return fail_errno("ask for the lock of " + path);
    if (held.l_type == F_UNLCK) continue;  // its holder has ended just now
    Remains remains;
    const Holder holder = look_at(procfs, held.l_pid, remains);
    const bool late = monotonic_ns() - began_ns >= kEndingNs;
    if (holder == Holder::lives || (holder == Holder::gone && late)) {
      return fail("another ramfoldd is running, pid " + std::to_string(held.l_pid) + " (" + path +
                      " is locked): stop it first",
                  EAGAIN);
    }
    if (late) {
      if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
      found = std::move(remains);
      continue;
    }
    sleep_ns(kNapNs);
  }
}

bool is_there(const sys::Procfs& procfs, pid_t pid, std::uint64_t start_ticks) {
  const auto now = procfs.start_ticks(pid);
  if (now) return *now == start_ticks;
  // If another thread has not ended, /proc lists two threads or more: that one, and the first as a
  // zombie.
  std::size_t threads = 0;
  (void)procfs.thread_ids(pid, [&](pid_t) { return ++threads < 2; });
  return threads >= 2;
}

}  // namespace ramfold::daemon
