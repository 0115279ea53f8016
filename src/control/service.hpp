// SPDX-License-Identifier: GPL-2.0-or-later
// What the control socket asks of the daemon. The daemon implements Service, and control::Server
// (server.hpp) calls it.
// Threads: the server calls from threads of its own. Calls may overlap, so the implementation does
// its own locking. All calls end before ~Server returns. snapshot() and show() are called often
// (--watch) and should take a few milliseconds; the rest may take as long as they take, and then
// delay only other operations, never a snapshot, a fault or a client's connection.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/types.hpp"
#include "control/views.hpp"

namespace ramfold::control {

enum class Failure : std::uint8_t {
  bad_request,  // from the server itself: not understood, too long, wrong version
  not_found,    // no such VM
  conflict,     // its state does not allow it (already attached, being unfolded)
  busy,         // too many operations under way
  refused,      // for safety: would lose data or run out of memory
  failed,       // tried and did not succeed
};
// Told to the operator as it is: what went wrong and what to do.
struct OperationError {
  Failure failure = Failure::failed;
  std::string text;
  std::string remedy;
  ByteCount missing;  // refused for lack of memory: how much; else 0
  friend bool operator==(const OperationError&, const OperationError&) = default;
};
template <typename T>
using Answer = std::expected<T, OperationError>;

inline std::unexpected<OperationError> refuse(Failure failure, std::string text,
                                              std::string remedy = {}, ByteCount missing = {}) {
  return std::unexpected(OperationError{failure, std::move(text), std::move(remedy), missing});
}

// A VM as operators name it: a QEMU process id, or a name, uuid or numeric id as `list` shows them.
// A number is tried as an id first, then as a pid.
struct VmSelector {
  std::string text;
  friend bool operator==(const VmSelector&, const VmSelector&) = default;
};
// pause and resume: one VM. Nothing: all VMs, and folding on this host.
using VmsSelector = std::optional<VmSelector>;

// What the operator says of the migration that a VM was started for (QEMU's -incoming).
enum class Incoming : bool { not_known, finished };

// Called now and then (at most some times a second) while pages come back. Never throws or blocks.
using ProgressSink = std::function<void(const UnfoldProgress&)>;

class Service {
 public:
  virtual ~Service() = default;

  virtual Snapshot snapshot() = 0;
  virtual Answer<VmView> show(const VmSelector& vm) = 0;

  // Attaches a VM whose agent is connected but which is not attached (detached before, or not
  // wanted by the configuration). The answer is the VM afterwards; observe-only is a success with
  // reasons. `finished` is accepted also for a VM that is attached already, and holds until its
  // QEMU ends.
  virtual Answer<VmView> attach(const VmSelector& vm, Incoming incoming) = 0;

  // What detach or off would need. The server tells the client. When plan.missing() > 0, it
  // refuses; else it calls detach or off, unless the client asked for the plan only.
  virtual Answer<UnfoldPlan> plan_detach(const VmSelector& vm) = 0;
  virtual Answer<UnfoldPlan> plan_off() = 0;
  // Unfold everything of one VM (of all), then let go of it. Complete on return, or an error and
  // the VM stays attached and served. They check the memory again, and may answer Failure::refused.
  // A client that goes away does not cancel them.
  virtual Answer<void> detach(const VmSelector& vm, const ProgressSink& progress) = 0;
  virtual Answer<void> off(const ProgressSink& progress) = 0;

  // The keys of the host, or of one attached VM, with the values in force.
  virtual Answer<PolicyView> policy(const VmsSelector& vm) = 0;
  // Sets keys of the host, or of one VM. Each assignment is KEY=VALUE, or KEY= for the value of the
  // file. All are carried out, or none. Answers what policy() answers afterwards. If the VM is
  // not there and its values were taken back, the answer has no keys. A VM that gets another trust
  // group by this shares nothing with its old group on return: all of its pages came back, which
  // takes time and memory as detach() does.
  virtual Answer<PolicyView> set_policy(const VmsSelector& vm,
                                        const std::vector<std::string>& assignments,
                                        const ProgressSink& progress) = 0;

  // Paused: nothing more is folded; faults are served, folded pages stay folded.
  virtual Answer<void> pause(const VmsSelector& vms) = 0;
  virtual Answer<void> resume(const VmsSelector& vms) = 0;  // also ends `off`
};

}  // namespace ramfold::control
