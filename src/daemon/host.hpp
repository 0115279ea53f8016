// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's composition: which parts there are, who is given whom, and in which order they begin
// and end. What happens when is read in loop.cpp.
// Threads: see src/README.md for the list. start() and stop() on one thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "control/service.hpp"
#include "daemon/agents/agents.hpp"
#include "daemon/agents/attach.hpp"
#include "daemon/bring_back/consumers.hpp"
#include "daemon/bring_back/detach.hpp"
#include "daemon/bring_back/off_switch.hpp"
#include "daemon/bring_back/retries.hpp"
#include "daemon/custody/configuration.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/take_over.hpp"
#include "daemon/loop.hpp"
#include "daemon/threads/nap.hpp"
#include "fault/pool.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class Host final : private AgentEvents {
 public:
  // Faults of inherited VMs are served when this returns; nothing slow comes before that.
  static Result<std::unique_ptr<Host>> start(Configuration configuration);
  ~Host() override;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Starts those threads that every daemon has and that do not run yet: the kernel may refuse some,
  // and the rest works meanwhile. False: some are still missing; call it again soon.
  bool begin_threads();
  // Operations under way give up soon; faults are still served. Before stop().
  void begin_stop() noexcept { (void)stopping_.raise(); }
  // Folded pages stay folded: the keeper holds them for the next daemon.
  void stop() noexcept;
  // After stop(): threads that processes of VMs hold up.
  unsigned count_held() const;
  // After stop(), when threads of this process are held up by VMs' processes and it can only
  // _exit(), which lasts as long as they are: makes way for the next daemon. VMs on whose memory
  // such a thread works are marked, so that nobody serves them beside it.
  void make_way() noexcept;
  // `ramfold off` has ended well: nothing of any guest is held here or by the keeper.
  bool is_off() const noexcept { return state_.off && state_.off_done; }
  std::unique_ptr<control::Service> make_service();
  const policy::Config& config() const noexcept { return config_; }

 private:
  struct Rooms;  // what is made once the store and the agents' socket are there

  explicit Host(Configuration configuration);
  Status open_device();
  Status take_over_guests();
  // A VM's contents stay in the group that it was attached to.
  void warn_of_groups() const;
  Status open_agents();
  void load_decisions();
  // A predecessor may have ended in the middle of what the operator had decided.
  void go_on_with_decisions();
  void recover();

  // AgentEvents
  bool wanted(const WaitingAgent& agent) override;
  void agent_ready(const VmHandle& vm) override;
  void look_again(const VmHandle& vm) override;
  void unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) override;
  void attached(const VmHandle& vm) override;
  bool forget_unused(const VmHandle& vm) override;

  const Configuration configuration_;
  const policy::Config& config_;
  Decisions decisions_;
  const sys::Procfs procfs_;
  const std::uint64_t started_ns_;
  const std::uint32_t generation_;
  StopFlag stopping_;
  std::atomic<bool> stopped_{false};
  HostLock lock_;
  sys::Fd device_;  // /dev/userfaultfd
  std::uint64_t features_ = 0;
  std::uint64_t restarts_ = 0;
  HostState state_;
  VmSet vms_;
  Keeping keeping_;
  LeftBehind left_behind_;
  Retries retries_;
  std::shared_ptr<fault::Pool> fault_pool_;
  std::unique_ptr<store::Contents> contents_;
  std::unique_ptr<Adopter> adopter_;
  std::unique_ptr<Attacher> attacher_;
  std::unique_ptr<Agents> agents_;
  std::unique_ptr<Rooms> rooms_;
  std::string thread_complaint_;  // the main thread's: said once
  sys::Thread looper_;
  sys::Thread recoverer_;
};

}  // namespace ramfold::daemon
