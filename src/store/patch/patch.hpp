// SPDX-License-Identifier: GPL-2.0-or-later
// A patch describes a page as the difference to another page, its reference (docs/patch-format.md).
// The copies of one page in two guests mostly differ by the addresses of the kernel, the libraries
// and the heap: the same amount is added to many pointers. So beside copies and literals, a patch
// has *fixes*: a field of 1 to 8 bytes is the field of the reference plus an amount, and later
// fixes may use the same amount again.
// Threads: pure; each thread has its own encoder state, allocated by its first encode().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::patch {

// The longest patch: the whole page as one literal.
inline constexpr std::size_t kPatchMax = kPageSize + 3;

// Returns the bytes written to `out`, at least 1; 0 when the patch would be larger than `out`.
std::uint32_t encode(const PageCopy& page, const PageCopy& reference,
                     std::span<std::byte> out) noexcept;
// False when `patch` is no valid patch; then `out` holds garbage. Safe on any bytes: reads only
// `patch` and the 4096 bytes at `reference`, writes only the 4096 bytes at `out`. REQUIRES: the
// three do not overlap.
bool decode(std::span<const std::byte> patch, const std::byte* reference, std::byte* out) noexcept;

}  // namespace ramfold::store::patch
