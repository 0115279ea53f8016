// SPDX-License-Identifier: GPL-2.0-or-later
// A place in a pool: the page at offset slot * 4096. Slot 0 is the head of the pool.
// Threads: a value.
#pragma once

#include <cstdint>

#include "base/types.hpp"

namespace ramfold::store {

using PoolSlot = Strong<struct PoolSlotTag, std::uint32_t>;

}  // namespace ramfold::store
