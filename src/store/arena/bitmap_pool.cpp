// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/arena/bitmap_pool.hpp"

#include <algorithm>

namespace ramfold::store {

Result<BitmapPool> BitmapPool::make(std::uint32_t chunks_max) {
  auto memory = sys::Mapping::anonymous(ByteCount{std::uint64_t{chunks_max} * kWords * 8});
  if (!memory) return std::unexpected(memory.error());
  return BitmapPool(std::move(*memory));
}

std::uint32_t BitmapPool::allocate() noexcept {
  std::uint32_t chunk = free_;
  if (chunk == kNone) {
    chunk = used_.load(std::memory_order_relaxed);
    used_.store(chunk + 1, std::memory_order_relaxed);
  } else {
    free_ = static_cast<std::uint32_t>(bits(chunk)[0]);
  }
  std::ranges::fill(bits(chunk), 0);
  return chunk;
}

void BitmapPool::free(std::uint32_t chunk) noexcept {
  bits(chunk)[0] = free_;
  free_ = chunk;
}

}  // namespace ramfold::store
