// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::daemon {

bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns) {
  if (vm->faults->stop(patience_ns)) vm->faults_stopped.store(true);
  return vm->faults_stopped;
}

}  // namespace ramfold::daemon
