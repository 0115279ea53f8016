// SPDX-License-Identifier: GPL-2.0-or-later
// Memory files and mappings. memfd_create(2), mmap(2).
// Threads: values; one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

// A sparse memory file of `size` bytes, not executable. A sealed one can neither shrink nor grow,
// so an access to a mapping of it never raises SIGBUS.
enum class Sealed : bool { no, yes };
Result<Fd> make_memfd(const char* name, ByteCount size, Sealed sealed);
Result<ByteCount> file_size(BorrowedFd fd);
// Gives the bytes [offset, offset + size) of a memory file back to the host; they read as zero
// after.
Status punch(BorrowedFd fd, ByteCount offset, ByteCount size) noexcept;

class Mapping {
 public:
  Mapping() noexcept = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~Mapping() { unmap(); }

  // Shared and writable, without reserving memory for it.
  static Result<Mapping> shared(BorrowedFd fd, ByteCount size, ByteCount offset = ByteCount{0});
  // The same, but what is written here goes to copies, not to the file.
  static Result<Mapping> private_of(BorrowedFd fd, ByteCount size);
  static Result<Mapping> anonymous(ByteCount size);

  // Gives whole pages of an anonymous mapping back to the host; they read as zero after.
  void discard(ByteCount offset, ByteCount size) const noexcept;

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  template <typename T>
  T* as() const noexcept {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Mapping(std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}
  void unmap() noexcept;

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ramfold::sys
