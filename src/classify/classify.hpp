// SPDX-License-Identifier: GPL-2.0-or-later
// Judges a private copy of a page: is it zero, and is it still as the last scan saw it?
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "base/page_copy.hpp"

namespace ramfold::classify {

enum class Kind : std::uint8_t { zero, content };

struct Policy {
  bool zero = true;     // fold pages of zeros
  bool content = true;  // fold others
};

struct Verdict {
  Kind kind = Kind::content;
  bool may_leave = false;  // not `changed`, and the policy allows this kind
  bool changed = false;    // the last scan saw other bytes
};

// The part of a hash that an observed word remembers.
constexpr std::uint32_t observed_bits(ContentHash hash) noexcept {
  return static_cast<std::uint32_t>(hash.value);
}

// `observed`: the last scan noted the page's hash. `seen`: observed_bits() of that hash, ignored
// without `observed`. REQUIRES: `hash` is the hash of `page`.
inline Verdict classify(const PageCopy& page, ContentHash hash, bool observed, std::uint32_t seen,
                        const Policy& policy) noexcept {
  Verdict v;
  v.changed = observed && observed_bits(hash) != seen;
  v.kind = is_zero(page) ? Kind::zero : Kind::content;
  v.may_leave = !v.changed && (v.kind == Kind::zero ? policy.zero : policy.content);
  return v;
}

}  // namespace ramfold::classify
