// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that scan and fold. All of them together keep within the CPU budget scan.cpu. Each
// one takes a chunk from the queue (chunk_queue.hpp), works on it (chunk_work.hpp), and gives it
// back.
// Threads: start/stop from one thread; fold_with() and set() from any.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/published.hpp"
#include "base/thread_annotations.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"
#include "daemon/work/chunk_queue.hpp"
#include "daemon/work/sources.hpp"
#include "policy/targets.hpp"
#include "scan/turns.hpp"
#include "sys/pin_test.hpp"

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
  // Workers read the targets for each chunk. tend() brings their number to that of the targets.
  void set(const policy::WorkTargets& targets) noexcept { targets_.store(targets); }
  // Before a page leaves, `test` tells who holds it. Until this is called no gate is open, and no
  // page leaves. `test` outlives this. REQUIRES: called once.
  void fold_with(const sys::PinTest& test) noexcept { pin_test_.store(&test); }
  // Asks which pages guests touch, by the source that the configuration chooses (scan.referenced).
  // Both outlive this. REQUIRES: called once, before start().
  void ask_through(AgentAnswers& agents, const Sources& sources) noexcept {
    agents_ = &agents;
    queue_.ask_of(sources);
  }
  // Waits up to 3 s for the threads. A thread that a process holds up is abandoned
  // (daemon/threads/apart.hpp).
  void stop() noexcept;
  // Replaces each thread that a VM holds up: a punch waits for the lock of the RAM file, a guard or
  // a scan waits for mmap_lock. That VM is not folded until it releases the thread, so one VM can
  // hold at most scan.threads threads. Starts and dismisses threads until there are scan.threads.
  // REQUIRES: called regularly, by one thread.
  void tend();
  // CPU time of planning and looking at pages, and CPU time of folding them.
  std::uint64_t scan_cpu_ns() const noexcept {
    return scan_cpu_ns_.load(std::memory_order_relaxed);
  }
  std::uint64_t fold_cpu_ns() const noexcept {
    return fold_cpu_ns_.load(std::memory_order_relaxed);
  }

 private:
  struct Worker {
    VmHandle at GUARDED_BY(&ScanWorkers::mutex_);  // the VM, since since_ns; null: none
    std::uint64_t since_ns GUARDED_BY(&ScanWorkers::mutex_) = 0;
    scan::Turns::Member turn GUARDED_BY(&ScanWorkers::mutex_);
    bool replaced GUARDED_BY(&ScanWorkers::mutex_) = false;  // tend() has charged its time
    std::atomic<bool> dismissed{false};                      // it ends after its chunk
  };
  bool add_worker() REQUIRES(mutex_);
  // Starts or dismisses workers until there are scan_threads of them. Ends early if the kernel
  // gives no thread.
  void adjust_number() REQUIRES(mutex_);
  void leave(const Worker& self) EXCLUDES(mutex_);
  void run(Worker& self) noexcept;
  // Records the VM on which a worker works. False: the worker was replaced meanwhile.
  bool at(Worker& self, const VmHandle& vm, const scan::Turns::Member& turn) EXCLUDES(mutex_);
  // Sleeps while the threads together have used more CPU time than their budget allows.
  void pay(std::uint64_t cpu_ns) noexcept;

  store::Contents& contents_;
  HostState& host_;
  Published<policy::WorkTargets> targets_;
  ChunkQueue queue_;
  AgentAnswers* agents_ = nullptr;
  StopFlag stopping_;
  std::atomic<std::uint64_t> scan_cpu_ns_{0};
  std::atomic<std::uint64_t> fold_cpu_ns_{0};
  std::atomic<std::uint64_t> budget_until_ns_{
      0};  // the CPU time used so far is within the budget from this time on
  Mutex mutex_{"ScanWorkers"};
  // Not the replaced ones; `running_` counts those too. The dismissed ones until they end.
  std::vector<std::shared_ptr<Worker>> workers_ GUARDED_BY(mutex_);
  std::atomic<unsigned> running_{0};
  std::atomic<const sys::PinTest*> pin_test_{nullptr};
};

}  // namespace ramfold::daemon
