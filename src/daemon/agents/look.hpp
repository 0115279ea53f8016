// SPDX-License-Identifier: GPL-2.0-or-later
// What the agents' thread wants to know about a process and must not wait for: who it is, and
// whether its offer is true. Looked up on a thread of its own, which a hostile process may hold
// (daemon/threads/apart.hpp); few of one process or user are let be held. A Look is one of
// share_apart()'s: it holds a userfaultfd. Threads: a Look belongs
// to its thread from start() until take() gives it back; the desk's functions may be called from
// any.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/agents/attach.hpp"
#include "guest/attach_check.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

// What is known of a process from its last attachment, when the daemon itself attaches it anew. One
// of share_apart()'s.
struct Former {
  sys::Fd uffd;  // it was proved to be the process's; none: no descriptor was to be had
  bool incoming_finished = false;
};

struct Look {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
  uid_t account = static_cast<uid_t>(-1);  // AgentPeer::account
  std::uint64_t start_ticks = 0;
  // Only of an offer:
  bool of_offer = false;
  std::uint64_t features = 0;  // what its userfaultfd is to have
  rf_offer offer{};
  std::vector<sys::Fd> fds;              // userfaultfd, then a RAM file a block
  std::shared_ptr<const Former> former;  // null: it was not attached before, or was detached
  // The answers:
  VmIdentity identity;
  Status status;  // of the offer
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
  // Begins looks for which no thread was to be had before.
  static void tend(const std::shared_ptr<LookDesk>& desk, const sys::Procfs& procfs);
  // Looks that have ended since.
  std::vector<std::shared_ptr<Look>> take();
  // Wakes who polls wake_fd().
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
  std::vector<std::shared_ptr<Look>> waiting_ GUARDED_BY(mutex_);  // bounded by the connections
  struct Running {
    const Look* look;
    pid_t pid;
    uid_t account;
  };
  std::vector<Running> running_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Look>> ended_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
