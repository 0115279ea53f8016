// SPDX-License-Identifier: GPL-2.0-or-later
// Who else uses the VMs' RAM, found by a look at every process now and then. Any of them can hold
// the look up (daemon/threads/apart.hpp): it is left where it is, and the next one leaves that
// process out, and all of a user who does that too often; VMs of that user are not folded then.
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
  // How long one process may take. A loaded host's is not held against it: the next look is due
  // soon.
  static constexpr std::uint64_t kPatienceNs = 2'000'000'000;
  // Threads that are left with processes: of one user, and of all.
  static constexpr std::size_t kStrangersOfUserMax = 4;
  static constexpr std::size_t kStrangersMax = 64;

  OthersWatch(const guest::ProcFacts& facts, const sys::Procfs& procfs,
              const guest::Custody& custody) noexcept
      : facts_(facts), procfs_(procfs), custody_(custody) {}

  // Begins a look when one is due, and waits for its end until `patience_ns` have passed.
  void tend(const std::vector<VmHandle>& vms, std::uint64_t patience_ns, const LookCpu& cpu);
  // What the last whole look found; null: none has ended for too long.
  std::shared_ptr<const guest::OtherUses> known() const;

 private:
  struct Stranger {
    pid_t pid;
    uid_t account;
    std::shared_ptr<guest::LookAt> look;  // which it holds up
  };
  void give_up_stranger();
  std::shared_ptr<guest::LookAt> next_look();

  const guest::ProcFacts& facts_;
  const sys::Procfs& procfs_;
  const guest::Custody custody_;
  mutable Mutex mutex_{"OthersWatch"};
  std::shared_ptr<const guest::OtherUses> uses_ GUARDED_BY(mutex_);
  std::uint64_t began_ns_ GUARDED_BY(mutex_) = 0;  // of the look that found it
  std::shared_ptr<guest::LookAt> looking_;         // under way, or the last one
  std::vector<Stranger> strangers_;
  sys::SubordinateIds ids_;  // who calls tend()
};

}  // namespace ramfold::daemon
