// SPDX-License-Identifier: GPL-2.0-or-later
// How much of a mapping is in memory. mincore(2).
// Threads: any; the mapping must stay.
#pragma once

#include "base/types.hpp"
#include "sys/memory.hpp"

namespace ramfold::sys {

// Of an anonymous mapping: the pages that have memory. Pages that were never touched have none;
// those in swap are not counted. 0 if the kernel does not tell.
ByteCount resident(const Mapping& mapping) noexcept;

}  // namespace ramfold::sys
