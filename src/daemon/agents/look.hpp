// SPDX-License-Identifier: GPL-2.0-or-later
// Looks at an agent's process: reads its identity and checks its offer. A hostile process can hold
// such a look up, so it runs on a thread of its own (daemon/threads/apart.hpp); the number of looks
// is bounded per process and per user. A Look holds a userfaultfd, so make it with share_apart().
// Threads: a Look belongs to its thread from start() until take() returns it; the functions of the
// desk from any.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/agents/attach.hpp"
#include "guest/attach_check.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

// Facts from the last attachment, used if the daemon itself attaches the VM anew. Make it with
// share_apart().
struct Former {
  sys::Fd uffd;  // proved to be the process's own; absent: duplicating it failed
  bool incoming_finished = false;
};

struct Look {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
  uid_t account = static_cast<uid_t>(-1);  // AgentPeer::account
  std::uint64_t start_ticks = 0;
  // Only for an offer:
  bool of_offer = false;
  std::uint64_t features = 0;  // the features that its userfaultfd must have
  rf_offer offer{};
  std::vector<sys::Fd> fds;              // userfaultfd, then one RAM file per block
  std::shared_ptr<const Former> former;  // null: it is not being attached anew by the daemon
  // The results:
  VmIdentity identity;
  Status status;  // is the offer good
};

class LookDesk {
 public:
  static constexpr std::size_t kOfProcessMax = 2;
  static constexpr std::size_t kOfUserMax = 16;
  static constexpr std::size_t kAllMax = 128;

  static Result<std::shared_ptr<LookDesk>> make();
  // REQUIRES: `procfs` outlives every look, or the process ends by _exit.
  static void start(const std::shared_ptr<LookDesk>& desk, const sys::Procfs& procfs,
                    std::shared_ptr<Look> look);
  // Begins looks for which the kernel gave no thread before.
  static void tend(const std::shared_ptr<LookDesk>& desk, const sys::Procfs& procfs);
  // Looks that have ended since the last call.
  std::vector<std::shared_ptr<Look>> take();
  // Makes wake_fd() readable, until drain().
  void poke() noexcept;
  void drain() noexcept;
  int wake_fd() const noexcept { return wake_.get(); }

 private:
  explicit LookDesk(sys::Fd wake) noexcept : wake_(std::move(wake)) {}
  bool has_room(const Look& look) const noexcept REQUIRES(mutex_);
  void start_waiting(const std::shared_ptr<LookDesk>& self, const sys::Procfs& procfs)
      REQUIRES(mutex_);

  sys::Fd wake_;  // eventfd
  Mutex mutex_{"LookDesk"};
  std::vector<std::shared_ptr<Look>> waiting_ GUARDED_BY(mutex_);  // at most one per connection
  struct Running {
    const Look* look;
    pid_t pid;
    uid_t account;
  };
  std::vector<Running> running_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Look>> ended_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
