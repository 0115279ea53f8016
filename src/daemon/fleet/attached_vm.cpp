// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fleet/attached_vm.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

namespace ramfold::daemon {

policy::VmClaim claim_of(const AttachedVm& vm) noexcept {
  const guest::VmRecord& record = vm.vm->record();
  return {record.name, vm.uuid, record.uid, policy::Vouched::no};
}

ByteCount backed(sys::BorrowedFd file) noexcept {
  struct stat st{};
  if (::fstat(file.get(), &st) != 0) return ByteCount{0};
  return ByteCount{static_cast<std::uint64_t>(st.st_blocks) * 512};
}

PageCount resident(const guest::Vm& vm) noexcept {
  std::uint64_t total = 0;
  std::vector<std::pair<dev_t, ino_t>> seen;
  for (const sys::Fd& ram : vm.files().rams) {
    struct stat st{};
    if (::fstat(ram.get(), &st) != 0) continue;
    const std::pair id{st.st_dev, st.st_ino};
    if (std::find(seen.begin(), seen.end(), id) != seen.end()) continue;
    seen.push_back(id);
    total += static_cast<std::uint64_t>(st.st_blocks) * 512;
  }
  return PageCount{total >> kPageShift};
}

bool stop_faults(const VmHandle& vm, std::uint64_t patience_ns) {
  if (vm->faults->stop(patience_ns)) vm->faults_stopped.store(true);
  return vm->faults_stopped;
}

}  // namespace ramfold::daemon
