// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that scan and fold. All of them together keep within the CPU budget scan.cpu.
// scan/turns.hpp chooses the VM whose chunk comes next. An owner is a user with its subordinate
// ids.
// Threads: start/stop from one thread; fold_with() and set() from any.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "base/published.hpp"
#include "base/thread_annotations.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"
#include "daemon/work/sources.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "policy/targets.hpp"
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
  // Workers read the targets for each chunk. tend() brings their number to that of the targets.
  void set(const policy::WorkTargets& targets) noexcept { targets_.store(targets); }
  // Before a page leaves, `test` tells who holds it. Until this is called no gate is open, and no
  // page leaves. `test` outlives this. REQUIRES: called once.
  void fold_with(const sys::PinTest& test) noexcept { pin_test_.store(&test); }
  // Asks which pages guests touch, by the source that the configuration chooses (scan.referenced).
  // Both outlive this. REQUIRES: called once, before start().
  void ask_through(AgentAnswers& agents, const Sources& sources) noexcept {
    agents_ = &agents;
    sources_ = &sources;
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
  struct Claim {
    VmHandle vm;
    scan::Turns::Member turn;
    std::size_t chunk = 0;
    const scan::ReferencedSource* source = nullptr;  // null: none is asked
    scan::History* history = nullptr;                // null as well
    scan::Sampling sampling;
    bool folds = false;   // ScanCursor::Terms
    unsigned epochs = 1;  // passes since the last look at the chunk
  };
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
  // Takes a chunk of the VM whose turn it is, among VMs whose pass runs or is due. False: no VM has
  // one.
  bool claim(Claim& claim) EXCLUDES(turns_mutex_);
  bool claim_of(const VmHandle& vm, Claim& claim) REQUIRES(turns_mutex_);
  void meet_new_vms() REQUIRES(turns_mutex_);
  void begin_pass(AttachedVm& vm, ScanCursor& cursor, std::uint64_t now_ns) REQUIRES(cursor.mutex);
  // The pass ends when every chunk was taken and given back.
  void end_pass_if_over(AttachedVm& vm, ScanCursor& cursor) REQUIRES(cursor.mutex);
  // Moves the cursor over chunks that rest, up to `end`.
  void skip_resting(AttachedVm& vm, ScanCursor& cursor, std::size_t end) REQUIRES(cursor.mutex);
  // After an empty chunk: skips the chunks in a hole of the RAM file, and frees their words.
  void skip_holes(const Claim& claim);
  void give_back(const Claim& claim, const scan::Met& met);
  // The most passes from a look that has met this in the chunk to the next one.
  unsigned rest_of(const AttachedVm& vm, std::size_t chunk, bool folds,
                   const scan::Met& met) const noexcept;
  // Chooses for a pass the source, and the share of the VM's RAM that it is asked about.
  // `elapsed_ns`: since the last pass began.
  void prepare_questions(const AttachedVm& vm, ScanCursor& cursor, std::uint64_t elapsed_ns)
      REQUIRES(cursor.mutex);
  // Asks which pages of the chunk the guest touches from now on.
  void ask(const Claim& claim, guest::AgentPort* agent, std::span<const scan::SeenPage> seen,
           scan::Met& met);
  // Counts in `met` what pages the chunk holds. Returns the CPU time of folding alone, in
  // nanoseconds.
  std::uint64_t work(const Claim& claim, scan::Planner& planner, fold::Folder& folder,
                     std::span<scan::Window, scan::kChunkWindows> windows, scan::Met& met);
  void fold(AttachedVm& vm, fold::Folder& folder, std::span<const scan::Window> windows);
  store::Admit admitted(const AttachedVm& vm) const noexcept;
  // Sleeps while the threads together have used more CPU time than their budget allows.
  void pay(std::uint64_t cpu_ns) noexcept;

  VmSet& vms_;
  store::Contents& contents_;
  HostState& host_;
  Published<policy::WorkTargets> targets_;
  AgentAnswers* agents_ = nullptr;
  const Sources* sources_ = nullptr;
  StopFlag stopping_;
  std::atomic<std::uint64_t> scan_cpu_ns_{0};
  std::atomic<std::uint64_t> fold_cpu_ns_{0};
  std::atomic<std::uint64_t> budget_until_ns_{
      0};  // the CPU time used so far is within the budget from this time on
  Mutex turns_mutex_ ACQUIRED_BEFORE(&ScanCursor::mutex){"ScanWorkers::turns"};
  scan::Turns turns_ GUARDED_BY(turns_mutex_);
  struct Turn {
    std::weak_ptr<AttachedVm> vm;
    uid_t owner = 0;
  };
  std::map<VmId, Turn> met_ GUARDED_BY(turns_mutex_);
  std::uint64_t met_changes_ GUARDED_BY(turns_mutex_) = 0;  // VmSet::changes() when `met_` was made
  sys::SubordinateIds ids_ GUARDED_BY(turns_mutex_);
  Mutex mutex_ ACQUIRED_BEFORE(turns_mutex_){"ScanWorkers"};
  // Not the replaced ones; `running_` counts those too. The dismissed ones until they end.
  std::vector<std::shared_ptr<Worker>> workers_ GUARDED_BY(mutex_);
  std::atomic<unsigned> running_{0};
  std::atomic<const sys::PinTest*> pin_test_{nullptr};
};

}  // namespace ramfold::daemon
