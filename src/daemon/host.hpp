// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon: takes over what a predecessor left, serves faults, and then everything else. The composition
// root; what happens when is read here and in housekeeping.cpp.
// Threads: see src/README.md for the list. start/stop on one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "control/service.hpp"
#include "daemon/accounting.hpp"
#include "daemon/agents.hpp"
#include "daemon/attach.hpp"
#include "daemon/fact_watch.hpp"
#include "daemon/host_policy.hpp"
#include "daemon/keeping.hpp"
#include "daemon/scan_workers.hpp"

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
  std::unique_ptr<control::Service> make_service();
  const policy::Config& config() const noexcept { return config_; }

 private:
  friend class HostService;
  using Task = std::function<void()>;

  explicit Host(policy::Config config);
  Status take_over();
  Status open_agents();
  void prove_kernel();
  void housekeeping();
  void keep_everything();
  void judge_memory();
  void bury_dead();
  void recover();
  void post(Task task);  // to the operations' thread
  void run_operations();
  // Unfolds and leaves the VM attached, never to be folded again in this process (D13).
  void unfold_for_consumer(const VmHandle& vm);
  control::Answer<void> detach(const VmHandle& vm, const std::function<void(std::uint64_t)>& progress);
  ByteCount memory_for_unfolding() const;

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
  sys::Fd lock_;
  sys::Fd device_;  // /dev/userfaultfd
  std::uint64_t features_ = 0;
  Keeping keeping_;
  std::unique_ptr<store::Contents> contents_;
  bool store_kept_ = false;
  bool had_keeper_ = false;  // at the start, or since
  std::unique_ptr<Attacher> attacher_;
  std::unique_ptr<guest::ProcFacts> facts_;
  std::unique_ptr<FactWatch> watch_;
  std::mutex watch_mutex_;
  HostPolicy policy_;
  VmSet vms_;
  std::unique_ptr<Agents> agents_;
  std::unique_ptr<ScanWorkers> workers_;
  std::atomic<bool> stopping_{false};
  std::thread housekeeper_;
  std::thread recoverer_;
  std::thread operator_;
  std::mutex tasks_mutex_;
  std::condition_variable tasks_changed_;
  std::deque<Task> tasks_;
  std::atomic<std::uint64_t> retired_fault_cpu_ns_{0};
};

}  // namespace ramfold::daemon
