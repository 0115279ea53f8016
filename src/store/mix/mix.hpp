// SPDX-License-Identifier: GPL-2.0-or-later
// The densest form of a page (docs/mix-format.md): literals, and copies from the page itself or
// from a reference before it. Every binary decision is coded with a probability that the model
// learns, first from the reference, then from the page. The probabilities of literals are mixed
// from several contexts. A tenth denser than zstd at its highest level, and forty times slower to
// decode: for contents that stay cold.
// Threads: pure. A thread that has called prepare_to_decode() does not allocate in decode().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_copy.hpp"

namespace ramfold::store::mix {

// Returns the bytes written to `out`, at least 1; 0 when they would not fit. `reference`: the 4096
// bytes of another page, or nullptr.
std::uint32_t encode(const std::byte* page, const std::byte* reference,
                     std::span<std::byte> out) noexcept;
// False when `bytes` are no valid page; then `out` holds garbage. Safe on any bytes: reads only
// `bytes` and the 4096 bytes at `reference`, if there is one; writes only the 4096 bytes at `out`.
bool decode(std::span<const std::byte> bytes, const std::byte* reference, std::byte* out) noexcept;
// Allocates the memory for one more decode() at the same time, until this thread ends.
void prepare_to_decode();

}  // namespace ramfold::store::mix
