// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/page_copy.hpp"

#include <cstdint>
#include <cstring>

namespace ramfold {

bool is_zero(const PageCopy& page) noexcept {
  constexpr std::size_t kStep = 64;
  for (std::size_t at = 0; at < kPageSize; at += kStep) {
    std::uint64_t words[kStep / 8];
    std::memcpy(words, page.bytes.data() + at, kStep);
    std::uint64_t any = 0;
    for (const std::uint64_t w : words) any |= w;
    if (any != 0) return false;
  }
  return true;
}

}  // namespace ramfold
