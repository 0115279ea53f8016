// SPDX-License-Identifier: GPL-2.0-or-later
// Decodes the bytes of any form back to the page.
// Threads: pure; each thread has its own scratch memory, allocated by prepare_to_decode() or the
// first calls.
#pragma once

#include <cstddef>
#include <span>

#include "store/codec/transpose.hpp"
#include "store/form.hpp"

namespace ramfold::store {

// How a page was encoded: its form, and how its bytes were transposed before.
struct Shape {
  Form form = Form::raw;
  Transpose transpose = Transpose::none;
};

// Allocates this thread's scratch memory for decode(). Without this call, its first calls of
// decode() allocate.
void prepare_to_decode();
// False when `bytes` are no page in this shape. Safe on any bytes; writes only the 4096 bytes at
// `out`. `reference`: the 4096 bytes of the reference; nullptr when the form needs none.
bool decode(Shape shape, std::span<const std::byte> bytes, const std::byte* reference,
            std::byte* out) noexcept;

}  // namespace ramfold::store
