// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace ramfold::sys {

Result<Fd> make_memfd(const char* name, ByteCount size, Sealed sealed) {
  // MFD_NOEXEC_SEAL is 6.3 and newer; an older kernel says EINVAL and gets the same file without
  // it.
  int raw = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (raw < 0 && errno == EINVAL) raw = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (raw < 0) return fail_errno("memfd_create");
  Fd fd(raw);
  if (::ftruncate(raw, static_cast<off_t>(size.value)) != 0)
    return fail_errno("size a memory file");
  if (sealed == Sealed::yes &&
      ::fcntl(raw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("seal a memory file");
  }
  return fd;
}

Result<ByteCount> file_size(BorrowedFd fd) {
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("fstat");
  return ByteCount{static_cast<std::uint64_t>(st.st_size)};
}

Status punch(BorrowedFd fd, ByteCount offset, ByteCount size) noexcept {
  if (::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset.value), static_cast<off_t>(size.value)) != 0) {
    return fail_errno("fallocate(PUNCH_HOLE)");
  }
  return {};
}

Result<Mapping> Mapping::shared(BorrowedFd fd, ByteCount size, ByteCount offset) {
  void* at = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                    fd.get(), static_cast<off_t>(offset.value));
  if (at == MAP_FAILED) return fail_errno("mmap");
  return Mapping(static_cast<std::byte*>(at), size.value);
}

Result<Mapping> Mapping::private_of(BorrowedFd fd, ByteCount size) {
  void* at =
      ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd.get(), 0);
  if (at == MAP_FAILED) return fail_errno("mmap");
  return Mapping(static_cast<std::byte*>(at), size.value);
}

Result<Mapping> Mapping::anonymous(ByteCount size) {
  void* at = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return fail_errno("mmap");
  return Mapping(static_cast<std::byte*>(at), size.value);
}

void Mapping::discard(ByteCount offset, ByteCount size) const noexcept {
  ::madvise(data_ + offset.value, size.value, MADV_DONTNEED);
}

void Mapping::unmap() noexcept {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace ramfold::sys
