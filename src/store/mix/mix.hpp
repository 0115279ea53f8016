// SPDX-License-Identifier: GPL-2.0-or-later
// The densest form of a page: literals and copies, from the page itself or a reference before it,
// every binary decision of them coded with a probability that is learnt on the way, of the
// reference first; those of literals are mixed of several contexts (docs/mix-format.md). A tenth
// denser than zstd's best and forty times as long to decode: for what stays cold.
// Threads: pure. What they work with lies ready after prepare_to_decode(); else a call allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::mix {

// Bytes written to `out`, at least 1; 0 when they would be more than fit. `reference`: the 4096
// bytes of another page, or nullptr.
std::uint32_t encode(const std::byte* page, const std::byte* reference,
                     std::span<std::byte> out) noexcept;
// False when `bytes` are no page; then `out` is of no use. Safe on any bytes: reads them and the
// 4096 bytes at `reference`, if there is one, writes the 4096 bytes at `out`, nothing beyond.
bool decode(std::span<const std::byte> bytes, const std::byte* reference, std::byte* out) noexcept;
// Takes the memory for one more decode() at the same time, until this thread ends.
void prepare_to_decode();

}  // namespace ramfold::store::mix
