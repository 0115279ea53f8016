// SPDX-License-Identifier: GPL-2.0-or-later
// The memory files from which the whole store can be rebuilt (docs/store-format.md). The keeper
// holds duplicates of them. Threads: a value.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::store {

// The pool of one group (store/pool/pool.hpp).
struct PoolFile {
  GroupId group;
  sys::Fd file;
  std::uint64_t id = 0;  // random: every pool has another one
};

struct StoreFiles {
  sys::Fd contents;  // superblock, and of each content: header, group, reference
  sys::Fd arena;     // encoded bytes
  sys::Fd groups;    // names and seeds of groups
  // For Contents::adopt(), which takes them. Contents::pool_files() gives them.
  std::vector<PoolFile> pools{};
};

}  // namespace ramfold::store
