// SPDX-License-Identifier: GPL-2.0-or-later
// The configuration of a running daemon: that of the file, read anew by reload(), with the values
// on top that the operator set (`ramfold policy set`; kept in decisions.hpp). Keys that change only
// at a start (policy/key_effects.hpp) stay as this daemon began with them.
//
// A change is made as a whole or not at all. The configuration is replaced as a whole (Current);
// VMs and workers get plain values, which they read anew for each piece of work.
// Threads: any. One change at a time; readers wait for no file.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "control/service.hpp"
#include "daemon/custody/configuration.hpp"
#include "daemon/custody/decisions.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "policy/current.hpp"
#include "policy/set_values.hpp"

namespace ramfold::daemon {

// Where the configuration in force comes from.
struct PolicyOrigin {
  Configuration file;
  std::vector<DecisionBook::Set> set;
  std::vector<policy::KeyProblem> problems;  // values that were set and do not hold
};

class LivePolicy {
 public:
  using Apply = std::function<void(const policy::Config&)>;
  // REQUIRES: both outlive this.
  LivePolicy(Configuration configuration, Decisions& decisions, const VmSet& vms);

  // Takes up the values that were set earlier. REQUIRES: decisions are loaded, there are no VMs.
  void begin() EXCLUDES(changing_);
  // `apply` hands a changed configuration to workers, log and judge. REQUIRES: called once, before
  // reload() and set().
  void apply_with(Apply apply) EXCLUDES(changing_);

  const policy::Current& current() const noexcept { return current_; }
  std::shared_ptr<const policy::Config> config() const { return current_.get(); }
  std::shared_ptr<const PolicyOrigin> origin() const EXCLUDES(mutex_);
  // Why nothing may be folded; nullopt: there is a configuration.
  std::optional<control::Reason> broken() const { return origin()->file.broken; }
  std::vector<control::Reason> notices() const;

  // Call it when `vm` is in the set of VMs: a change may have come while it was attached.
  void attached(AttachedVm& vm) EXCLUDES(applying_);

  // Reads the file anew. If it is broken nothing changes, and the log and notices() say why. True:
  // the daemon had no configuration, and has one now.
  bool reload() EXCLUDES(changing_);

  // Each assignment is KEY=VALUE, or KEY= for the value of the file. All are carried out, or none
  // and the answer tells the first problem. `vm`: nullopt for a key of the host.
  control::Answer<void> set(const std::optional<VmKey>& vm,
                            std::span<const std::string> assignments) EXCLUDES(changing_);
  // For VMs that are not there: takes back values by name or uuid, for every owner. False: no such
  // value was set, or an assignment does not take back.
  control::Answer<bool> take_back(std::string_view name_or_uuid,
                                  std::span<const std::string> assignments) EXCLUDES(changing_);

 private:
  // The configuration that `file` and `set` make.
  policy::WithSetValues made_of(const Configuration& file,
                                const std::vector<DecisionBook::Set>& set) const;
  void publish(PolicyOrigin origin, policy::Config config) REQUIRES(changing_);
  control::Answer<void> replace_set(std::vector<DecisionBook::Set> set) REQUIRES(changing_);

  const policy::Config start_;  // of which the keys of a start hold
  Decisions& decisions_;
  const VmSet& vms_;
  Mutex changing_ ACQUIRED_BEFORE(applying_){"LivePolicy::changing"};  // over a whole change
  Apply apply_ GUARDED_BY(changing_);
  Mutex applying_ ACQUIRED_BEFORE(mutex_){"LivePolicy::applying"};  // VMs get their targets
  mutable Mutex mutex_{"LivePolicy"};
  std::shared_ptr<const PolicyOrigin> origin_ GUARDED_BY(mutex_);
  policy::Current current_;
};

}  // namespace ramfold::daemon
