// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that scan and fold, within the CPU budget of scan.cpu over all of them together.
// Threads: start/stop from one thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/fleet/attached_vm.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "fold/folder.hpp"
#include "policy/config.hpp"
#include "scan/plan.hpp"

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
    std::size_t chunk = 0;
  };
  struct Worker {
    VmHandle at;  // and since when; null: at none. Under mutex_, as all of it
    std::uint64_t since_ns = 0;
    bool replaced = false;
  };
  bool add_worker();
  void run(Worker& self) noexcept;
  // Says where a worker is; false: it was replaced meanwhile.
  bool at(Worker& self, const VmHandle& vm);
  // A chunk of some VM whose pass is under way or due; nothing when all rest.
  bool claim(Claim& claim, std::size_t& turn);
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
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> scan_cpu_ns_{0};
  std::atomic<std::uint64_t> fold_cpu_ns_{0};
  std::atomic<std::uint64_t> budget_until_ns_{0};  // wall time up to which the CPU used is paid for
  std::mutex mutex_;
  std::vector<std::shared_ptr<Worker>> workers_;  // without those that were replaced
  std::atomic<unsigned> running_{0};              // with them
};

}  // namespace ramfold::daemon
