// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon: takes over what a predecessor left, serves faults, and then everything else. The
// composition root; what happens when is read here and in housekeeping.cpp.
// Threads: see src/README.md for the list. start/stop on one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "control/service.hpp"
#include "daemon/agents/agents.hpp"
#include "daemon/agents/attach.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/custody/predecessor.hpp"
#include "daemon/judge/fact_watch.hpp"
#include "daemon/judge/host_policy.hpp"
#include "daemon/report/accounting.hpp"
#include "daemon/threads/task_thread.hpp"
#include "daemon/work/reform_worker.hpp"
#include "daemon/work/scan_workers.hpp"

namespace ramfold::daemon {

class Host final : private AgentEvents {
 public:
  // Faults of inherited VMs are served when this returns; nothing slow comes before that.
  static Result<std::unique_ptr<Host>> start(policy::Config config);
  ~Host() override;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Folded pages stay folded: the keeper holds them for the next daemon.
  void stop() noexcept;
  // After stop(), when threads of this process are held up by VMs' processes and it can only
  // _exit(), which lasts as long as they are: makes way for the next daemon. VMs on whose memory
  // such a thread works are marked, so that nobody serves them beside it.
  void make_way() noexcept;
  // `ramfold off` has ended well: nothing of any guest is held here or by the keeper.
  bool is_off() const noexcept { return policy_.off && policy_.off_done; }
  std::unique_ptr<control::Service> make_service();
  const policy::Config& config() const noexcept { return config_; }

 private:
  friend class HostService;
  static constexpr const char* kOffTask = "off";
  // May bringing pages back take host.reserve too?
  enum class Reserve : bool { left_alone, used };

  explicit Host(policy::Config config);
  Status take_over();
  // take_over.cpp
  void adopt_all(Inheritance left);
  void note_remains(KeptVm& kept) const;
  static UnusableVm held_vm(KeptVm kept);
  // A call of a daemon that has not ended may still change its memory.
  bool is_left(const guest::VmRecord& record) const;
  void adopt_late(VmId id);
  Status open_agents();
  void prove_kernel();
  void housekeeping();
  void keep_everything();
  void judge_memory();
  void bury_dead();
  void bury(VmHandle vm);
  // Ends its fault service; false: a thread of it is held up, and ends when it may.
  static bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns);
  void recover();
  // Tried until there is the memory for it; false: the daemon stops.
  bool recover_store();
  // Waits for VMs that this daemon cannot serve; false: the daemon stops.
  bool wait_for_unusable();

  // bring_back.cpp
  // Unfolds and leaves the VM attached, never to be folded again in this process (D13); tried until
  // it is so.
  void unfold_for_consumer(const VmHandle& vm);
  Status unfold_attached(const VmHandle& vm, Reserve reserve);
  static std::string unfold_task(const AttachedVm& vm);  // its name among the retries
  control::Answer<void> detach(const VmHandle& vm, const control::ProgressSink& progress);
  control::Answer<void> off(const control::ProgressSink& progress);
  control::Answer<void> bring_all_back(const control::ProgressSink& progress);
  control::Answer<void> end_off();
  // Folded pages of a VM can be counted on being counted: false soon after a restart, for too long.
  bool wait_counted(const AttachedVm& vm) const;
  std::optional<control::OperationError> no_room_for(const AttachedVm& vm, Reserve reserve) const;
  ByteCount memory_for_unfolding(Reserve reserve) const;

  void look_now(const VmHandle& vm);
  bool wanted(const AgentPeer& peer) override;
  void agent_ready(const VmHandle& vm) override;
  void look_again(const VmHandle& vm) override;
  void unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) override;
  void attached(const VmHandle& vm) override;
  bool forget_unused(const VmHandle& vm) override;

  const policy::Config config_;
  const sys::Procfs procfs_;
  std::uint64_t started_ns_ = 0;
  std::uint32_t generation_ = 0;
  std::uint64_t restarts_ = 0;
  HostLock lock_;
  sys::Fd device_;  // /dev/userfaultfd
  std::uint64_t features_ = 0;
  Keeping keeping_;
  std::unique_ptr<store::Contents> contents_;
  std::unique_ptr<Attacher> attacher_;
  std::unique_ptr<guest::ProcFacts> facts_;
  std::unique_ptr<FactWatch> watch_;
  std::atomic<FactWatch*> watching_{nullptr};  // once the kernel was proved, for good
  HostPolicy policy_;
  std::mutex judge_mutex_;  // held while memory is judged and the verdict published
  std::mutex off_mutex_;    // held while everything is brought back
  VmSet vms_;
  std::mutex unusable_mutex_;
  std::vector<UnusableVm> unusable_;
  std::unique_ptr<Agents> agents_;
  std::unique_ptr<ScanWorkers> workers_;
  std::unique_ptr<ReformWorker> reform_;  // none when reform.policy is off
  std::atomic<bool> stopping_{false};
  std::atomic<bool> off_retried_{false};
  std::atomic<std::uint64_t> retired_fault_cpu_ns_{0};
  std::string keeper_complaint_;  // the housekeeper's: said once
  std::thread housekeeper_;
  std::thread recoverer_;
  TaskThread undertaker_{"rf-undertaker"};
  Retries retries_;
};

}  // namespace ramfold::daemon
