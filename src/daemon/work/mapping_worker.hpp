// SPDX-License-Identifier: GPL-2.0-or-later
// Has the agents map the pool over pages, and put pages back: pages that were written (once a pass
// of the scan), pages whose mapping QEMU has discarded, and all pages of a VM that is brought back,
// or whose pages may not map the pool any more.
//
// A VM's turn runs on a thread that the VM's process may hold up (daemon/threads/apart.hpp). It
// holds that VM alone up: the others go on. While a chunk of the VM is worked on no scan worker
// takes it.
// Threads: start() and stop() from one, tend() from one; the others from any.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/published.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "daemon/threads/nap.hpp"
#include "guest/pin_proof.hpp"
#include "guest/private_proof.hpp"
#include "policy/targets.hpp"
#include "sys/thread.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class MappingWorker {
 public:
  MappingWorker(VmSet& vms, store::Contents& contents, HostState& host,
                const policy::Config& config);
  ~MappingWorker() { stop(); }
  MappingWorker(const MappingWorker&) = delete;
  MappingWorker& operator=(const MappingWorker&) = delete;

  // Starts the thread unless it runs already.
  Status begin();
  void stop() noexcept;
  void set(const policy::WorkTargets& targets) noexcept { targets_.store(targets); }
  // Who holds a page in the RAM file, and who holds a private copy. Until this is called nothing is
  // mapped. Both outlive this. REQUIRES: called once.
  void map_with(const sys::PinTest& pages, const sys::PrivatePins& copies) noexcept;
  // The kernel cannot be asked: nothing will be mapped. REQUIRES: instead of map_with().
  void map_nothing() noexcept { no_proof_.store(true); }
  // REQUIRES: called once, before begin(); `agents` outlives this.
  void ask_through(AgentAnswers& agents) noexcept { agents_ = &agents; }
  std::uint64_t cpu_ns() const noexcept { return cpu_ns_.load(std::memory_order_relaxed); }

  // A process may have so many mappings (vm.max_map_count). A quarter of them is left to QEMU.
  static constexpr std::uint64_t ranges_max(std::uint64_t max_map_count) noexcept {
    return max_map_count / 4 * 3;
  }

 private:
  class Turn;
  // tend: pages may stay mapped, and none is mapped anew.
  enum class Task : std::uint8_t { nothing, tend, map, put_all_back };

  void run() noexcept;
  // What is wanted of the VM, whether or not there is something to do.
  Task task_of(const AttachedVm& vm) const noexcept;
  bool has_work(const AttachedVm& vm, Task task) const;
  // Both return false when there is more to do.
  bool take_turn(const VmHandle& vm, Task task);
  bool turn(AttachedVm& vm, Task task);

  VmSet& vms_;
  store::Contents& contents_;
  HostState& host_;
  Published<policy::WorkTargets> targets_;
  AgentAnswers* agents_ = nullptr;
  std::atomic<const sys::PinTest*> pin_test_{nullptr};
  std::atomic<const sys::PrivatePins*> private_pins_{nullptr};
  std::atomic<bool> no_proof_{false};
  std::atomic<std::uint64_t> max_map_count_{0};
  std::atomic<std::uint64_t> cpu_ns_{0};
  StopFlag stopping_;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
