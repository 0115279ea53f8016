// SPDX-License-Identifier: GPL-2.0-or-later
// Behind the fault path after a restart: counts which contents the words of all VMs name, then lets
// the store rebuild its indexes. Faults are served meanwhile; nothing is folded until it ends.
// Threads: one call, on a thread of its own.
#pragma once

#include <atomic>

#include "daemon/fleet/attached_vm.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

// Counts the references of one VM, page by page, each under its owner; sets vm.counted at the end.
// False: `stop` was set.
bool count_references(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop);

}  // namespace ramfold::daemon
