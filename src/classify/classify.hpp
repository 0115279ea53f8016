// SPDX-License-Identifier: GPL-2.0-or-later
// Pure: a private copy of a page and what was known of it -> what may be done with it. Today: is it
// zero, and is it still what the last scan saw. Which forms may be tried at what price comes here.
// Threads: functions of values.
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
  bool may_leave = false;  // unchanged since it was observed, and the policy wants it
  bool changed = false;    // not what the last scan saw
};

// The part of a hash that an observed word remembers.
constexpr std::uint32_t observed_bits(ContentHash hash) noexcept {
  return static_cast<std::uint32_t>(hash.value);
}

// `seen`: the hash bits of the last scan; REQUIRES: `hash` is the page's. `observed`: there was
// one.
inline Verdict classify(const PageCopy& page, ContentHash hash, bool observed, std::uint32_t seen,
                        const Policy& policy) noexcept {
  Verdict v;
  v.changed = observed && observed_bits(hash) != seen;
  v.kind = is_zero(page) ? Kind::zero : Kind::content;
  v.may_leave = !v.changed && (v.kind == Kind::zero ? policy.zero : policy.content);
  return v;
}

}  // namespace ramfold::classify
