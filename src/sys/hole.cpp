// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/hole.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ramfold::sys {
namespace {

// EINVAL: this kernel has no large folios.
bool exclude_large_folios(void* at) noexcept {
  return ::madvise(at, kPageSize, MADV_NOHUGEPAGE) == 0 || errno == EINVAL;
}

// The kernel says EFAULT both for a page behind the end of the file and for one that the file
// system has no room for.
bool is_within(BorrowedFd file, ByteCount offset) noexcept {
  struct stat st{};
  return ::fstat(file.get(), &st) == 0 && offset.value < static_cast<std::uint64_t>(st.st_size);
}

Status fill(BorrowedFd file, ByteCount offset, void* at, const std::byte* page) noexcept {
  if (::madvise(at, kPageSize, MADV_DONTFORK) != 0) return fail_errno("madvise(DONTFORK)");
  if (!exclude_large_folios(at)) return fail_errno("madvise(NOHUGEPAGE)");
  if (::madvise(at, kPageSize, MADV_POPULATE_WRITE) != 0) {
    const int code = errno == EFAULT && is_within(file, offset) ? ENOSPC : errno;
    return fail("make a page of a memory file", code);
  }
  // The kernel copies: whoever has the file may have shortened it since.
  const iovec from{const_cast<std::byte*>(page), kPageSize};
  const iovec to{at, kPageSize};
  const ssize_t n = ::process_vm_writev(::gettid(), &from, 1, &to, 1, 0);
  if (n < 0) return fail_errno("process_vm_writev");
  if (n != kPageSize) return fail("process_vm_writev: a part of a page", EIO);
  return {};
}

}  // namespace

Status fill_hole(BorrowedFd file, ByteCount offset, const std::byte* page) noexcept {
  void* const at = ::mmap(nullptr, kPageSize, PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.get(),
                          static_cast<off_t>(offset.value));
  if (at == MAP_FAILED) return fail_errno("mmap");
  Status filled = fill(file, offset, at, page);
  ::munmap(at, kPageSize);
  return filled;
}

}  // namespace ramfold::sys
