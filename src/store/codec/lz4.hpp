// SPDX-License-Identifier: GPL-2.0-or-later
// LZ4 blocks of one page (the format of lz4_Block_format.md, no frame).
// Threads: pure; each thread has its own encoder state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::lz4 {

// A page whose block would be larger stays raw: to save less than an eighth is not worth the
// decoding.
inline constexpr std::size_t kEncodedMax = kPageSize - kPageSize / 8;

// Returns the bytes written to `out`; 0 when the block would be larger than `out`.
std::uint32_t encode(const PageCopy& page, std::span<std::byte> out) noexcept;
// False when `block` is not an LZ4 block of exactly 4096 bytes. Safe on any bytes; writes at most
// 4096.
bool decode(std::span<const std::byte> block, std::byte* out) noexcept;

}  // namespace ramfold::store::lz4
