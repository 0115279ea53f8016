// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/codecs.hpp"

#include <array>
#include <new>

#define ZSTD_STATIC_LINKING_ONLY  // for frames without a magic number
#include <zstd.h>

#include "store/codec/lz4.hpp"

namespace ramfold::estimate {
namespace {

constexpr int kLevel = 1;

// A page that takes more bytes stays raw: the limit of the store's LZ4 encoder.
constexpr std::size_t kRoom = store::lz4::kEncodedMax;

}  // namespace

Codecs::Codecs() : zstd_(ZSTD_createCCtx()) {
  if (zstd_ == nullptr) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(zstd_, ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(zstd_, ZSTD_c_contentSizeFlag, 0);
  ZSTD_CCtx_setParameter(zstd_, ZSTD_c_format, ZSTD_f_zstd1_magicless);
}

Codecs::~Codecs() { ZSTD_freeCCtx(zstd_); }

PageSizes Codecs::measure(const PageCopy& page) noexcept {
  std::array<std::byte, kRoom> out;
  const std::uint32_t lz4 = store::lz4::encode(page, out);
  const std::size_t zstd =
      ZSTD_compress2(zstd_, out.data(), out.size(), page.bytes.data(), kPageSize);
  return {static_cast<std::uint16_t>(lz4 == 0 ? kPageSize : lz4),
          static_cast<std::uint16_t>(ZSTD_isError(zstd) != 0 ? kPageSize : zstd)};
}

}  // namespace ramfold::estimate
