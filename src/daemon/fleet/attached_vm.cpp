// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fleet/attached_vm.hpp"

#include <sys/stat.h>

#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {

ByteCount backed(sys::BorrowedFd file) noexcept {
  struct stat st{};
  if (::fstat(file.get(), &st) != 0) return ByteCount{0};
  return ByteCount{static_cast<std::uint64_t>(st.st_blocks) * 512};
}

bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns) {
  if (vm->faults_stopped) return true;
  if (vm->faults_stopping.exchange(true)) return false;
  const Ended ended = run_apart_for(patience_ns, [vm] {
    vm->faults->stop();
    vm->faults_stopped.store(true);
  });
  if (ended == Ended::never_ran) vm->faults_stopping.store(false);
  return ended == Ended::yes;
}

}  // namespace ramfold::daemon
