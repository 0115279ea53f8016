// SPDX-License-Identifier: GPL-2.0-or-later
// Patches: a page told as the difference to another page, its reference (docs/patch-format.md).
// What the copies of one page in two guests mostly differ by is where the kernel, the libraries and
// the heap were loaded: the same amount is added to a pointer here and there. So beside copies and
// literals, a patch has *fixes*: a field of 1 to 8 bytes is the reference's plus an amount that was
// used before. Threads: pure; each thread has its own encoder state, allocated with the thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::patch {

// No patch of two pages is longer: a page of which nothing is found is one literal.
inline constexpr std::size_t kPatchMax = kPageSize + 3;

// Bytes written to `out`, at least 1; 0 when the patch would be larger than `out`.
std::uint32_t encode(const PageCopy& page, const PageCopy& reference,
                     std::span<std::byte> out) noexcept;
// False when `patch` is not a patch; then `out` is of no use. Safe on any bytes: reads `patch` and
// the 4096 bytes at `reference`, writes the 4096 bytes at `out`, nothing beyond. The three do not
// overlap.
bool decode(std::span<const std::byte> patch, const std::byte* reference, std::byte* out) noexcept;

}  // namespace ramfold::store::patch
