// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/lz4.hpp"

#include <lz4.h>

#include "store/scratch.hpp"

namespace ramfold::store::lz4 {

std::uint32_t encode(const PageCopy& page, std::span<std::byte> out) noexcept {
  constexpr int kAcceleration = 1;
  const int length = LZ4_compress_fast_extState(
      &thread_scratch<LZ4_stream_t>(), reinterpret_cast<const char*>(page.bytes.data()),
      reinterpret_cast<char*>(out.data()), kPageSize, static_cast<int>(out.size()), kAcceleration);
  return length > 0 ? static_cast<std::uint32_t>(length) : 0;
}

bool decode(std::span<const std::byte> block, std::byte* out) noexcept {
  return LZ4_decompress_safe(reinterpret_cast<const char*>(block.data()),
                             reinterpret_cast<char*>(out), static_cast<int>(block.size()),
                             kPageSize) == static_cast<int>(kPageSize);
}

}  // namespace ramfold::store::lz4
