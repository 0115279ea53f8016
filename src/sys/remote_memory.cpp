// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/remote_memory.hpp"

#include <fcntl.h>
#include <sys/uio.h>

#include <array>

#include "base/check.hpp"

namespace ramfold::sys {

Result<RemoteMemory> RemoteMemory::open(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail("open " + path, errno == ENOENT ? ESRCH : errno);
  return RemoteMemory(pid, std::move(fd));
}

Result<std::size_t> RemoteMemory::entries(HostVirt first, std::span<std::uint64_t> into) const {
  const auto at = static_cast<off_t>(first.value / kPageSize * sizeof(std::uint64_t));
  const ssize_t n = ::pread(pagemap_.get(), into.data(), into.size_bytes(), at);
  if (n < 0) return fail_errno("read /proc/PID/pagemap");
  // The pagemap of a process that has ended is empty.
  if (n == 0 && !into.empty()) return fail("read /proc/PID/pagemap", ESRCH);
  return static_cast<std::size_t>(n) / sizeof(std::uint64_t);
}

Result<std::size_t> RemoteMemory::read(std::span<const HostVirt> at,
                                       std::span<PageCopy> into) const {
  ENSURE(at.size() <= kPagesMax && at.size() == into.size());
  std::array<iovec, kPagesMax> remote;
  for (std::size_t i = 0; i < at.size(); ++i) {
    // Another process's address: never dereferenced here.
    remote[i] = {reinterpret_cast<void*>(at[i].value),
                 kPageSize};  // NOLINT(performance-no-int-to-ptr)
  }
  const iovec local{into.data(), into.size_bytes()};
  const ssize_t n = ::process_vm_readv(pid_, &local, 1, remote.data(), at.size(), 0);
  if (n >= 0) return static_cast<std::size_t>(n) / kPageSize;
  if (errno == EFAULT) return std::size_t{0};
  return fail_errno("process_vm_readv");
}

}  // namespace ramfold::sys
