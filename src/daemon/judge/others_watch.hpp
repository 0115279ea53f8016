// SPDX-License-Identifier: GPL-2.0-or-later
// Finds other users of the VMs' RAM by a regular look at every process. Any process can hold the
// look up (daemon/threads/apart.hpp). That look is then abandoned, and the next look leaves this
// process out. If a user's processes do that too often, the look leaves out all processes of that
// user, and VMs of that user are not folded.
// Threads: tend() from one; known() from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "guest/facts.hpp"
#include "sys/procfs.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::daemon {

// CPU time of looks that have ended.
using LookCpu = std::shared_ptr<std::atomic<std::uint64_t>>;

class OthersWatch {
 public:
  // How long a look may stay at one process before it is abandoned. On a loaded host this can hit
  // an honest process, which is looked at again after the abandoned look has ended.
  static constexpr std::uint64_t kPatienceNs = 2'000'000'000;
  // How long what a look found counts. Longer than an honest host takes between two looks.
  static constexpr std::uint64_t kLastNs = 60'000'000'000;
  // Bounds on abandoned threads: per user, and in all.
  static constexpr std::size_t kStrangersOfUserMax = 4;
  static constexpr std::size_t kStrangersMax = 64;

  OthersWatch(const guest::ProcFacts& facts, const sys::Procfs& procfs,
              const guest::Custody& custody) noexcept
      : facts_(facts), procfs_(procfs), custody_(custody) {}

  // Begins a look if one is due, and waits at most `patience_ns` for its end.
  void tend(const std::vector<VmHandle>& vms, std::uint64_t patience_ns, const LookCpu& cpu);
  // Result of the last complete look; null: it is too old, or there is none.
  std::shared_ptr<const guest::OtherUses> known() const;

 private:
  struct Stranger {
    pid_t pid;
    uid_t account;
    std::shared_ptr<guest::LookAt> look;  // the look that it holds up
  };
  void give_up_stranger();
  std::shared_ptr<guest::LookAt> next_look();

  const guest::ProcFacts& facts_;
  const sys::Procfs& procfs_;
  const guest::Custody custody_;
  mutable Mutex mutex_{"OthersWatch"};
  std::shared_ptr<const guest::OtherUses> uses_ GUARDED_BY(mutex_);
  std::uint64_t began_ns_ GUARDED_BY(mutex_) = 0;  // begin of the look that found `uses_`
  std::shared_ptr<guest::LookAt> looking_;         // the running look, or the last one
  std::vector<Stranger> strangers_;
  sys::SubordinateIds ids_;  // only for the thread that calls tend()
};

}  // namespace ramfold::daemon
