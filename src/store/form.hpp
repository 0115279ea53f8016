// SPDX-License-Identifier: GPL-2.0-or-later
// The forms in which a content is kept. The numbers are part of the format (docs/store-format.md).
// Threads: values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ramfold::store {

//   patch  the difference to another content, its reference (docs/patch-format.md): quick to decode
//   delta  zstd with the reference as prefix: denser
//   mix    literals and copies, coded by mixed contexts (docs/mix-format.md): densest, slow to
//          decode; mix_delta: with the page of a reference before it
// A reference belongs to the same group, and its own form needs no reference.
enum class Form : std::uint8_t {
  zero = 0,
  raw = 1,
  lz4 = 2,
  zstd = 3,
  patch = 4,
  delta = 5,
  mix = 6,
  mix_delta = 7
};
inline constexpr std::size_t kForms = 8;

constexpr std::string_view name_of(Form form) noexcept {
  constexpr std::array<std::string_view, kForms> kNames{"zero",  "raw",   "lz4", "zstd",
                                                        "patch", "delta", "mix", "mix_delta"};
  return kNames[static_cast<std::size_t>(form)];
}

// A content of this form has bytes in the arena.
constexpr bool is_stored(Form form) noexcept {
  return form >= Form::raw && form <= Form::mix_delta;
}
// Another content, the reference, is needed to decode this form.
constexpr bool needs_reference(Form form) noexcept {
  return form == Form::patch || form == Form::delta || form == Form::mix_delta;
}

}  // namespace ramfold::store
