// SPDX-License-Identifier: GPL-2.0-or-later
// Makes an AttachedVm from a VM's record and files, which come from an agent or from the keeper. On
// return its faults are served. Neither function waits for the VM's process.
// Threads: any.
#pragma once

#include <memory>
#include <utility>

#include "daemon/custody/decisions.hpp"
#include "daemon/custody/keeping.hpp"
#include "daemon/fleet/attached_vm.hpp"
#include "policy/current.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class Adopter {
 public:
  Adopter(store::Contents& contents, const policy::Current& config, const Decisions& decisions,
          std::shared_ptr<fault::Pool> fault_pool) noexcept
      : contents_(contents),
        config_(config),
        decisions_(decisions),
        fault_pool_(std::move(fault_pool)) {}

  // A VM that was never folded.
  Result<VmHandle> make(const guest::VmRecord& record, guest::Vm::Files files);
  // A VM that a predecessor served: its references are not counted yet.
  Result<VmHandle> adopt(KeptVm kept);

  store::Contents& contents() noexcept { return contents_; }
  std::shared_ptr<const policy::Config> config() const { return config_.get(); }

 private:
  enum class History : bool { fresh, served_before };
  Result<VmHandle> finish(const guest::VmRecord& record, guest::Vm::Files files, History history);

  store::Contents& contents_;
  const policy::Current& config_;
  const Decisions& decisions_;
  const std::shared_ptr<fault::Pool> fault_pool_;
};

VmKey key_of(const Decisions& decisions, const AttachedVm& vm);

}  // namespace ramfold::daemon
