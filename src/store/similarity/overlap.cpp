// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/similarity/overlap.hpp"

#include <cstring>

namespace ramfold::store {

template <typename F>
void Overlap::for_hashes(const PageCopy& page, F&& each) noexcept {
  for (std::size_t at = 0; at + 4 <= kPageSize; ++at) {
    std::uint32_t piece = 0;
    std::memcpy(&piece, &page.bytes[at], 4);
    each(static_cast<std::uint16_t>(piece * 0x9e37'79b1u >> (32 - kHashBits)));
  }
}

void Overlap::begin(const PageCopy& page) noexcept {
  seen_.fill(0);
  count_ = 0;
  for_hashes(page, [&](std::uint16_t hash) {
    if (has(hash)) return;
    set(hash);
    hashes_[count_++] = hash;
  });
}

unsigned Overlap::with(const PageCopy& other) noexcept {
  seen_.fill(0);
  for_hashes(other, [&](std::uint16_t hash) { set(hash); });
  unsigned n = 0;
  for (std::size_t i = 0; i < count_; ++i) n += has(hashes_[i]) ? 1 : 0;
  return n;
}

}  // namespace ramfold::store
