// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that scan and fold, within the CPU budget of scan.cpu over all of them together.
// Whose chunk comes next: scan/turns.hpp; an owner is a user with its subordinate ids.
// Threads: start/stop from one thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"
#include "fold/folder.hpp"
#include "policy/config.hpp"
#include "scan/plan.hpp"
#include "scan/turns.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class ScanWorkers {
 public:
  ScanWorkers(VmSet& vms, store::Contents& contents, HostState& host, const policy::Config& config);
  ~ScanWorkers();
  ScanWorkers(const ScanWorkers&) = delete;
  ScanWorkers& operator=(const ScanWorkers&) = delete;

  void start();
  // Waits a moment for the threads; one that a process holds up is left (daemon/threads/apart.hpp).
  void stop() noexcept;
  // Replaces a thread that the VM at which it is holds up: a punch that waits for the RAM file's
  // lock, a guard or a scan that waits for mmap_lock. That VM is left alone until it lets go, so
  // that it holds as many threads as there are, at most. REQUIRES: called now and then, by one
  // thread.
  void tend();
  // What looking at pages took, planning included, and what letting them go did.
  std::uint64_t scan_cpu_ns() const noexcept {
    return scan_cpu_ns_.load(std::memory_order_relaxed);
  }
  std::uint64_t fold_cpu_ns() const noexcept {
    return fold_cpu_ns_.load(std::memory_order_relaxed);
  }

 private:
  struct Claim {
    VmHandle vm;
    scan::Turns::Member turn;
    std::size_t chunk = 0;
  };
  struct Worker {
    VmHandle at GUARDED_BY(&ScanWorkers::mutex_);  // since when; null: at none
    std::uint64_t since_ns GUARDED_BY(&ScanWorkers::mutex_) = 0;
    scan::Turns::Member turn GUARDED_BY(&ScanWorkers::mutex_);
    bool replaced GUARDED_BY(&ScanWorkers::mutex_) = false;  // its time there is charged
  };
  bool add_worker() REQUIRES(mutex_);
  void run(Worker& self) noexcept;
  // Says where a worker is; false: it was replaced meanwhile.
  bool at(Worker& self, const VmHandle& vm, const scan::Turns::Member& turn) EXCLUDES(mutex_);
  // A chunk of the VM whose turn it is, of those whose pass is under way or due; nothing when all
  // rest.
  bool claim(Claim& claim) EXCLUDES(turns_mutex_);
  bool claim_of(const VmHandle& vm, Claim& claim) REQUIRES(turns_mutex_);
  void meet_new_vms() REQUIRES(turns_mutex_);
  // From an empty chunk on, those of which the RAM file holds nothing: their words are given back.
  void skip_holes(const Claim& claim);
  void give_back(const Claim& claim, scan::Met met);
  // Returns the CPU time that folding took of it.
  std::uint64_t work(const Claim& claim, scan::Planner& planner, fold::Folder& folder,
                     std::span<scan::Window, scan::kChunkWindows> windows);
  void fold(AttachedVm& vm, fold::Folder& folder, std::span<const scan::Window> windows);
  store::Admit admitted(const AttachedVm& vm) const noexcept;
  // Sleeps as long as the threads together are ahead of their budget.
  void pay(std::uint64_t cpu_ns) noexcept;

  VmSet& vms_;
  store::Contents& contents_;
  HostState& host_;
  const policy::Config& config_;
  StopFlag stopping_;
  std::atomic<std::uint64_t> scan_cpu_ns_{0};
  std::atomic<std::uint64_t> fold_cpu_ns_{0};
  std::atomic<std::uint64_t> budget_until_ns_{0};  // wall time up to which the CPU used is paid for
  Mutex turns_mutex_ ACQUIRED_BEFORE(&ScanCursor::mutex){"ScanWorkers::turns"};
  scan::Turns turns_ GUARDED_BY(turns_mutex_);
  struct Turn {
    std::weak_ptr<AttachedVm> vm;
    uid_t owner = 0;
  };
  std::map<VmId, Turn> met_ GUARDED_BY(turns_mutex_);
  std::uint64_t met_changes_ GUARDED_BY(turns_mutex_) = 0;  // VmSet::changes() of `met_`
  sys::SubordinateIds ids_ GUARDED_BY(turns_mutex_);
  Mutex mutex_ ACQUIRED_BEFORE(turns_mutex_){"ScanWorkers"};
  // Without those that were replaced; `running_` counts these too.
  std::vector<std::shared_ptr<Worker>> workers_ GUARDED_BY(mutex_);
  std::atomic<unsigned> running_{0};
};

}  // namespace ramfold::daemon
