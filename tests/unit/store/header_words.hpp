// SPDX-License-Identifier: GPL-2.0-or-later
// Words of the store's files, for tests that damage them.
#pragma once

#include <unistd.h>
#include <catch2/catch.hpp>
#include <cstdint>

#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::store::test {

// In the contents file.
inline std::uint64_t where_offset(ContentId id) {
  return kPageSize + id.value * std::uint64_t{16} + 8;
}
inline std::uint64_t read_u64(const sys::Fd& fd, std::uint64_t offset) {
  std::uint64_t value = 0;
  REQUIRE(::pread(fd.get(), &value, sizeof value, static_cast<off_t>(offset)) == sizeof value);
  return value;
}
inline void write_u64(const sys::Fd& fd, std::uint64_t offset, std::uint64_t value) {
  REQUIRE(::pwrite(fd.get(), &value, sizeof value, static_cast<off_t>(offset)) == sizeof value);
}

}  // namespace ramfold::store::test
