// SPDX-License-Identifier: GPL-2.0-or-later
// A private copy of one guest page. Guest memory changes under us: only a private copy may be
// hashed or compared for a decision.
#pragma once

#include <array>
#include <cstddef>

#include "base/types.hpp"

namespace ramfold {

struct alignas(64) PageCopy {
  std::array<std::byte, kPageSize> bytes;
};
static_assert(sizeof(PageCopy) == kPageSize);

// True when all bytes of the page are zero. One pass of 8-byte words with an early exit.
bool is_zero(const PageCopy& page) noexcept;

}  // namespace ramfold
