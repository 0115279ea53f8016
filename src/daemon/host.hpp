// SPDX-License-Identifier: GPL-2.0-or-later
// The composition of the daemon: it makes the parts, gives them references to each other, and
// starts and stops them in order. The control loop is in loop.cpp.
// Threads: see src/README.md for the list. start(), reload() and stop() on one thread.
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
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/live_policy.hpp"
#include "daemon/custody/take_over.hpp"
#include "daemon/judge/pin_loader.hpp"
#include "daemon/loop.hpp"
#include "daemon/threads/nap.hpp"
#include "fault/pool.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class Host final : private AgentEvents {
 public:
  // When this returns, the faults of inherited VMs are served. Slow work starts only after that.
  static Result<std::unique_ptr<Host>> start(Configuration configuration,
                                             std::unique_ptr<PinLoader> pins);
  ~Host() override;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Starts the threads that every daemon has, unless they run already. The kernel may refuse a
  // thread; the others work meanwhile. False: a thread is still missing, call this again soon.
  bool begin_threads();
  // Call it before stop(). Running operations give up soon; faults are still served.
  void begin_stop() noexcept { (void)stopping_.raise(); }
  // Folded pages stay folded: the keeper holds them for the next daemon.
  void stop() noexcept;
  // After stop(): the number of threads that processes of VMs hold up.
  unsigned count_held() const;
  // Call it after stop() if count_held() is not 0. This process can then end only by _exit(), and
  // its end waits for those threads. Disconnects from the keeper and gives up the host's lock, so
  // that the next daemon can start. Marks the VMs on whose memory such a thread works: no daemon
  // may serve them until that thread has ended.
  void make_way() noexcept;
  // `ramfold off` is complete: neither this process nor the keeper holds anything of a guest.
  bool is_off() const noexcept { return state_.off && state_.off_done; }
  std::unique_ptr<control::Service> make_service();
  // Reads the configuration anew (custody/live_policy.hpp).
  void reload();
  // That of the start: only for keys that do not change later.
  const policy::Config& config_of_start() const noexcept { return config_; }

 private:
  struct Rooms;  // made after the store and the agents' socket

  Host(Configuration configuration, std::unique_ptr<PinLoader> pins);
  Status open_device();
  Status take_over_guests();
  Status open_agents();
  void load_decisions();
  // Continues the `off` or `detach` during which the last daemon ended.
  void go_on_with_decisions();
  void recover();

  // AgentEvents
  bool wanted(const WaitingAgent& agent) override;
  void agent_ready(const VmHandle& vm) override;
  void fenced(const VmHandle& vm) override;
  void look_again(const VmHandle& vm) override;
  void unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) override;
  void attached(const VmHandle& vm) override;
  bool forget_unused(const VmHandle& vm) override;

  const policy::Config config_;  // of the start: only for keys that do not change later
  Decisions decisions_;
  const sys::Procfs procfs_;
  const std::unique_ptr<PinLoader> pins_;
  const std::uint64_t started_ns_;
  const std::uint32_t generation_;
  StopFlag stopping_;
  std::atomic<bool> stopped_{false};
  HostLock lock_;
  sys::Fd device_;              // /dev/userfaultfd
  std::uint64_t offered_ = 0;   // of the kernel's userfaultfd
  std::uint64_t features_ = 0;  // of every VM's
  HostState state_;
  VmSet vms_;
  LivePolicy policy_;
  Keeping keeping_;
  LeftBehind left_behind_;
  Retries retries_;
  std::shared_ptr<fault::Pool> fault_pool_;
  std::unique_ptr<store::Contents> contents_;
  std::unique_ptr<Adopter> adopter_;
  std::unique_ptr<Attacher> attacher_;
  std::unique_ptr<Agents> agents_;
  std::unique_ptr<Rooms> rooms_;
  std::string thread_complaint_;  // the last message about missing threads; main thread only
  sys::Thread looper_;
  sys::Thread recoverer_;
};

}  // namespace ramfold::daemon
