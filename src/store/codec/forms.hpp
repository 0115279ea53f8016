// SPDX-License-Identifier: GPL-2.0-or-later
// From the bytes of any form back to the page.
// Threads: pure; each thread has its own scratch page, allocated with the thread.
#pragma once

#include <cstddef>
#include <span>

#include "store/codec/transpose.hpp"
#include "store/form.hpp"

namespace ramfold::store {

// How encoded bytes are to be read.
struct Shape {
  Form form = Form::raw;
  Transpose transpose = Transpose::none;
};

// Takes the memory that decode() works with on this thread; else its first calls do.
void prepare_to_decode();
// False when `bytes` are not a page in this shape. Safe on any bytes; writes the 4096 bytes at
// `out` and nothing beyond. `reference`: the 4096 bytes of the reference, nullptr where the form
// has none.
bool decode(Shape shape, std::span<const std::byte> bytes, const std::byte* reference,
            std::byte* out) noexcept;

}  // namespace ramfold::store
