// SPDX-License-Identifier: GPL-2.0-or-later
// The memory files that are all truth of the store (docs/store-format.md). The keeper holds
// duplicates of them. Threads: a value.
#pragma once

#include "sys/fd.hpp"

namespace ramfold::store {

struct StoreFiles {
  sys::Fd contents;  // superblock, headers, groups of contents
  sys::Fd arena;     // bytes
  sys::Fd groups;    // names and seeds
};

}  // namespace ramfold::store
