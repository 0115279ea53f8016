// SPDX-License-Identifier: GPL-2.0-or-later
// The control loop. It reads the state of the host (keeper, ended VMs, memory), judges it,
// publishes the verdict, and acts on it. Workers and guests do not wait for it.
// Threads: run() on one of its own; judge() from any.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/bring_back/off_switch.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/custody/hand_over.hpp"
#include "daemon/custody/left_behind.hpp"
#include "daemon/custody/live_policy.hpp"
#include "daemon/custody/mappings.hpp"
#include "daemon/custody/recovery.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/judge/fact_watch.hpp"
#include "daemon/judge/host_judge.hpp"
#include "daemon/judge/pin_loader.hpp"
#include "daemon/judge/quota.hpp"
#include "daemon/judge/stall_watch.hpp"
#include "daemon/threads/nap.hpp"
#include "daemon/work/work.hpp"
#include "fault/pool.hpp"

namespace ramfold::daemon {

class Loop {
 public:
  struct Parts {
    const LivePolicy& policy;
    Decisions& decisions;
    const sys::Procfs& procfs;
    sys::BorrowedFd userfault_device;
    PinLoader& pins;
    HostState& state;
    VmSet& vms;
    store::Contents& contents;
    Keeping& keeping;
    HandOver& hand_over;
    Departures& departures;
    LeftBehind& left_behind;
    Recovery& recovery;
    Mappings& mappings;
    FactWatch& facts;
    Work& work;
    OffSwitch& off;
    const fault::Pool& fault_pool;
    const StopFlag& stopping;
  };
  // REQUIRES: all parts outlive this.
  explicit Loop(Parts parts) : p_(parts) {}

  // Returns when `stopping` is raised.
  void run();
  // Reads the state of the host, judges it and publishes the verdict, at once.
  void judge() EXCLUDES(judging_);

 private:
  void prove_kernel();
  // Starts threads that the kernel refused before.
  void tend_threads();
  HostInputs sense(const std::vector<VmHandle>& vms, const store::Stats& stats) const
      REQUIRES(judging_);
  void tell_status();  // tells the service manager

  Parts p_;
  std::string status_told_;
  StallWatch stalls_;  // of run() alone
  enum class SelfTest : std::uint8_t { not_run, passed, failed };
  std::atomic<SelfTest> self_test_{SelfTest::not_run};
  bool fault_threads_short_ = false;  // the error is logged already
  // Held from sense() to publish(): an older verdict must not replace a newer one.
  Mutex judging_{"Loop::judging"};
  KeepsJudge keeps_ GUARDED_BY(judging_);
  std::optional<guest::NoPinTest> no_pin_test_ GUARDED_BY(judging_);
};

}  // namespace ramfold::daemon
