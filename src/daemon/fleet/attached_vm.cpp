// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fleet/attached_vm.hpp"

#include <sys/stat.h>

namespace ramfold::daemon {

ByteCount backed(sys::BorrowedFd file) noexcept {
  struct stat st{};
  if (::fstat(file.get(), &st) != 0) return ByteCount{0};
  return ByteCount{static_cast<std::uint64_t>(st.st_blocks) * 512};
}

bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns) {
  if (vm->faults->stop(patience_ns)) vm->faults_stopped.store(true);
  return vm->faults_stopped;
}

}  // namespace ramfold::daemon
