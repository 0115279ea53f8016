// SPDX-License-Identifier: GPL-2.0-or-later
// A place in the arena. Threads: a value.
#pragma once

#include <cstdint>

namespace ramfold::store {

// Offset of encoded bytes in the arena, and how many there are (1 to 4096).
struct Extent {
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
};

}  // namespace ramfold::store
